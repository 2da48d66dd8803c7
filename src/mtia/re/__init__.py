"""The runtime environment, under the name that upstream's tests look for it."""

"""Names of the Triton back end that upstream's tests import; the back end itself is `mtia.triton_backend`."""

"""Other projects' own tests, run on the device from a folder with their sources: `mtia suite NAME DIR`.

`catalog.py` says what each suite is and how its tests are found, `worker.py` is one pytest process, `plugin.py` tells
its supervisor what begins and how it ends, `supervise.py` restarts a worker that died or hung, `results.py` is what is
kept. `tutorials.py` and `kernelbench.py` make tests of sources that have none.
"""

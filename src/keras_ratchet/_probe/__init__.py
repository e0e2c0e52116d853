"""NOTE: what a run does and ends with, written down for `ratchet doctor`, which compares runs.

| variable of the environment | |
|---|---|
| `RATCHET_DOCTOR` | the directory in which a process makes `marks.jsonl` and `fit-0.npz` |
| `RATCHET_DOCTOR_SCRATCH` | the directory in which everything may be written; not set in place |
| `RATCHET_DOCTOR_OUTSIDE` | the directory that takes the place of all other paths, and of URLs |

`options.json` in that directory has how many epochs and steps a fit may take. Without these
variables nothing of this package is ever called.
"""

"""The names of Keras that are not public, one topic a module.

Each module's docstring has a table of every such name that the module touches. A name is written

* `Class.member` or `module.member` for an attribute of a class or module of `keras.src`,
* `Class` or `module` for something that is imported from there,
* `function:name` for a local variable or an argument of a function,
* `module['key']` for an entry that a module keeps under a string,

and beside it stand the versions of Keras on which it was checked. `tests/keras/test_tables.py`
holds the tables to the code and to the Keras that is installed: a private name that is touched
anywhere else in the package, or that no table lists, fails it. Keras is imported on call, never
before. That the names still mean what we think is checked by these tests:

| module | canary |
|---|---|
| `anatomy`, `callbacks`, `ema`, `metrics`, `seeds` | `tests/keras/test_names.py` |
| `anatomy` (attributes) | `tests/resume/test_attributes.py` |
| `fit` | `tests/keras/test_meanings.py` |
| `distribution` (no private names) | `tests/distributed/test_slices.py` |
| `building` | `tests/resume/test_made_by_the_first_step.py` |
| `legacy_h5` | `tests/drop_in/test_legacy_files.py` |
| `rebuilding` | `tests/drop_in/test_found_at_the_start.py` |
| `marks` | `tests/formats/test_image.py` |
| `saving` | `tests/formats/test_zoo.py` |
"""

"""The names of Keras that are not public, one topic a module.

Each module's docstring has a table of every such name that the module touches. A name is written

* `Class.member` or `module.member` for an attribute of a class or module of `keras.src`,
* `Class` or `module` for something that is imported from there,
* `function:name` for a local variable or an argument of a function,
* `module['key']` for an entry that a module keeps under a string,

and beside it stand the versions of Keras on which it was checked. `tests/keras/test_tables.py`
holds the tables to the code and to the Keras that is installed: a private name that is touched
anywhere else in the package, or that no table lists, fails it. `test_names.py` and
`test_meanings.py` beside it check what the names mean. Keras is imported on call, never before.
"""

"""CONNECT: other people's schedulers and trackers, each imported only by the module of its name."""

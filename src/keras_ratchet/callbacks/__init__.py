"""KERAS: the callbacks, and what they keep from hook to hook."""

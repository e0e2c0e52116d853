"""What a user gives is a path or a URL: told apart in one place, and brought into one form."""

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_ratchet._storage import anywhere
from keras_ratchet._storage.anywhere import checked_url, is_url, path_or_url
from keras_ratchet._storage.objects.location import cache_directory, split
from keras_ratchet.errors import ConfigError

LOCAL = ["runs/a:b/x", "C:/runs", "C:\\runs", "c:/", "a:b", ".", "", "/", "runs/x://y", "s3", "s3:",
         "/s3://b/x", "1s://b/x", "_s3://b", "s 3://b", "ünï://b", "memory:", "~/a:b",
         "runs/lr=0.1:/x"]  # fmt: skip


@pytest.mark.parametrize("path", LOCAL)
def test_what_only_looks_like_one_is_a_path(path):
    assert not is_url(path)
    assert path_or_url(path, "path") == path
    assert path_or_url(Path(path), "path") == str(Path(path))
    assert path_or_url(os.fsencode(path), "path") == path


def test_a_leading_dot_makes_a_path_of_what_looks_like_one():
    assert path_or_url("./s3://b/x", "path") == "./s3://b/x"


URLS = {
    "s3://bucket/run": "s3://bucket/run",
    "s3://bucket": "s3://bucket",
    "s3://bucket/run/": "s3://bucket/run",
    "S3://Bucket/Run": "s3://Bucket/Run",
    "gs://b/a/best.keras": "gs://b/a/best.keras",
    "abfss://c@account.dfs.core.windows.net/x": "abfss://c@account.dfs.core.windows.net/x",
    "hf://datasets/me/run@main/x": "hf://datasets/me/run@main/x",
    "memory://a": "memory://a",
    "memory:///a/b": "memory://a/b",
    "file:///mnt/share/run": "file:///mnt/share/run",
    "file:/mnt/share/run": "file:///mnt/share/run",
    "s3://b/lr=0.1,é [2]/{epoch:02d}.keras": "s3://b/lr=0.1,é [2]/{epoch:02d}.keras",
    "github+x.y-z://b/x": "github+x.y-z://b/x",
}


@pytest.mark.parametrize(("url", "one_form"), URLS.items())
def test_a_url_has_one_form(url, one_form):
    assert is_url(url)
    assert path_or_url(url, "path") == one_form
    assert checked_url(one_form, "path") == one_form


@pytest.mark.parametrize(("url", "one_form"), URLS.items())
def test_pathlib_takes_slashes_that_are_given_back(url, one_form):
    collapsed = PurePosixPath(url)
    assert "//" not in str(collapsed)
    assert is_url(collapsed)
    assert path_or_url(collapsed, "path") == one_form


REFUSED = {
    "simplecache::s3://b/x": "must be a URL such as",
    "s3://b/x::y": "must be a URL such as",
    "s3://": "must name a place on the store",
    "s3:///": "must name a place on the store",
    "file:///": "must name a place on the store",
    "s3://b/../other": "'..' in it",
    "s3://..": "'..' in it",
    "s3://b/./x": "'.' or",
    "s3://b//x": "an empty part",
    "s3://b/x\0": "a backslash or a null byte",
    "s3://b/x\\y": "a backslash or a null byte",
}


@pytest.mark.parametrize(("url", "text"), REFUSED.items(), ids=[repr(url) for url in REFUSED])
def test_a_url_that_is_no_place_for_checkpoints_is_refused(url, text):
    with pytest.raises(ConfigError, match=text) as raised:
        path_or_url(url, "backup_dir")
    assert str(raised.value).startswith("backup_dir ")


@pytest.mark.parametrize("url", ["simplecache::s3://b/x", "filecache::gs://b/x", "zip://a::s3://b"])
def test_chained_urls_are_refused_and_never_taken_for_paths(url):
    assert is_url(url)
    with pytest.raises(ConfigError, match="must be a URL such as"):
        checked_url(url, "path")


@given(st.text(max_size=30))
def test_any_text_is_a_path_or_a_checked_url_or_refused(text):
    try:
        found = path_or_url(text, "path")
    except ConfigError:
        assert is_url(text)
        return
    assert is_url(found) == is_url(text)
    if is_url(text):
        assert checked_url(found, "path") == found
        assert not {"", ".", ".."} & set(found.partition("://")[2].lstrip("/").split("/"))
    else:
        assert found == text


def test_it_is_taken_apart_and_put_together():
    assert split("s3://b/a/best.keras") == ("s3://b/a", "best.keras")
    assert split("s3://b") == ("s3://b", "")
    assert split("file:///share") == ("file:///share", "")
    assert anywhere.parent("s3://b/a/x") == "s3://b/a"
    assert anywhere.parent("runs/x") == "runs"
    assert anywhere.joined("s3://b/a", "x") == "s3://b/a/x"
    assert anywhere.joined("runs", "x") == os.path.join("runs", "x")


def test_every_url_has_a_cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))
    urls = [
        "s3://b/a",
        "s3://b_a",
        "gs://b/a",
        "s3://b/" + "long/" * 100 + "x",
        "s3://b/é",
        "s3://b/ü",
    ]
    found = {cache_directory(url) for url in urls}
    assert len(found) == len(urls)
    for path in found:
        assert os.path.dirname(path) == str(tmp_path)
        assert len(os.path.basename(path).encode()) <= 255


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"XDG_CACHE_HOME": "/c"}, "/c/keras-ratchet"),
        ({"HOME": "/home/x"}, "/home/x/.cache/keras-ratchet"),
        ({"RATCHET_CACHE": "/r", "XDG_CACHE_HOME": "/c"}, "/r"),
    ],
)
def test_the_cache_is_where_the_environment_says(env, expected, monkeypatch):
    for name in ("RATCHET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert os.path.dirname(cache_directory("s3://b/a")) == expected

"""A journal may hold anything that is JSON: the page is written whatever it says."""

import json
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ratchet._report.page import page
from keras_ratchet._report.runs import Place

KINDS = ("begin", "epoch", "epoch", "save", "skip", "drop", "rollback", "reduce_lr", "stop")
MORE_KINDS = ("average", "preempted", "end", "check_load", "save_error", "nobody knows")
FIELDS = ("batch", "reason", "name", "bytes", "blocked_s", "written_s", "ranking", "members")
MORE_FIELDS = ("value", "metric", "epochs", "problem", "status", "reused_bytes", "kind", "series")

NUMBERS = [0, 1, -1, 10**400, 0.5, 1e308, float("nan"), float("inf"), "nan", "inf", "-inf"]
LISTS = [[], [["val_loss", "min"]], [["loss"], 7], ["a", "b"], [[["deep"]]]]
OTHERS = [None, True, "", "0.5", "a<b>&\u2028\ud800", {}, {"loss": 1}, {"": [None]}]

numbers = st.sampled_from(NUMBERS)
anything = st.sampled_from([*NUMBERS, *LISTS, *OTHERS])
metrics = st.dictionaries(st.sampled_from(["loss", "val_loss", "<b>"]), anything) | anything
events = st.fixed_dictionaries(
    {"event": st.sampled_from(KINDS + MORE_KINDS)},
    optional={
        "epoch": st.integers(-1, 9) | anything,
        "time": st.floats(0, 1e9) | anything,
        "metrics": metrics,
        **dict.fromkeys(FIELDS + MORE_FIELDS, anything),
    },
)


class _Data(HTMLParser):
    text = ""

    def handle_data(self, data):
        if self.lasttag == "script" and not self.text:
            self.text = data


@settings(max_examples=100)
@given(st.lists(events, max_size=12))
def test_any_events_make_a_page_with_strict_json(found):
    html = page([Place("runs/a", "a", found)])
    reader = _Data()
    reader.feed(html)

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(reader.text, parse_constant=refuse)["runs"]
    assert html.encode("utf-8", "replace").endswith(b"</html>\n")

"""A figure on a page: sharp, once more for a phone, with the numbers that were drawn."""

import base64
import csv
import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from unlearnlib.publishing import figures
from unlearnlib.publishing.figures import shown

matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def closed():
    figures.style()
    yield
    plt.close("all")


def three_panels():
    figure, drawn = figures.panels(3, sharey=True)
    for place, axes in enumerate(drawn):
        axes.plot([1, 2, 3], [place, 0.5, 3], label="a method with a name")
        axes.set_title(f"panel {place}")
        axes.set_xlabel("dose")
    drawn[0].set_ylabel("gap")
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def rows(figure):
    return list(csv.reader(io.StringIO(shown.table(figure))))


def test_the_wide_picture_fills_the_text_and_the_narrow_one_a_phone():
    picture, told = shown.bundle(three_panels())
    ours = told["unlearnlib"]
    assert told["width"] <= 688 + 8 and ours["narrow_width"] <= 358
    assert ours["narrow_height"] > 2.5 * told["height"]  # three panels below each other
    assert ours["points"] >= 9
    pixels = Image.open(io.BytesIO(base64.b64decode(picture)))
    assert pixels.width == pytest.approx(told["width"] * shown.DPI / shown.CSS, abs=2)


def test_the_figure_keeps_its_places_and_its_legend():
    figure = three_panels()
    before = [axes.get_subplotspec() for axes in figure.axes], figure.get_size_inches().tolist(), len(figure.legends)
    shown.bundle(figure)
    after = [axes.get_subplotspec() for axes in figure.axes], figure.get_size_inches().tolist(), len(figure.legends)
    assert after == before and figure.legends[0].get_visible()


def test_a_panel_that_shared_its_names_gets_its_own():
    figure = three_panels()
    shown.bundle(figure)
    assert all(axes.get_ylabel() == "gap" for axes in figure.axes)
    assert all(axes.yaxis.get_tick_params()["labelleft"] for axes in figure.axes)


def test_pictures_without_ticks_stay_side_by_side():
    figure, drawn = plt.subplots(2, 6, figsize=(7, 2.4))
    for axes in drawn.flat:
        axes.imshow(np.eye(4))
        axes.set_axis_off()
    told = shown.bundle(figure)[1]
    assert told["unlearnlib"]["narrow_height"] < told["height"] and told["unlearnlib"]["data"] == ""


def test_panels_that_do_not_fit_a_phone_have_no_narrow_picture():
    figure, axes = plt.subplots(figsize=(7, 3))
    axes.plot([1, 2], [1, 2])
    axes.set_yticks([1, 2], ["a very long name of something " * 3, "b"])
    told = shown.bundle(figure)[1]["unlearnlib"]
    assert told["narrow"] == "" and told["narrow_width"] > 400


def test_equal_figures_give_equal_bytes():
    assert shown.bundle(three_panels()) == shown.bundle(three_panels())


def test_data_of_lines_bars_points_bands_and_matrices():
    figure, (left, right) = plt.subplots(1, 2)
    left.plot([1, 2], [0.25, 1 / 3], label="line")
    left.scatter([5], [6], label="dots")
    left.bar([7, 8], [0.5, 0.75], label="bars")
    left.axhline(0.5, label="chance")
    left.axvspan(2, 3, label="null")
    left.set_ylabel("gap")
    right.pcolormesh(np.array([[1.0, 2.0]]))
    right.set_xticks([0.5, 1.5], ["low", "high"])
    right.set_title("map")
    found = [dict(zip(shown.COLUMNS, row, strict=True)) for row in rows(figure)[1:]]

    def drawn(series, kind):
        return [(r["x"], r["y"]) for r in found if (r["series"], r["kind"]) == (series, kind)]

    assert drawn("line", "line") == [("1", "0.25"), ("2", "0.333333")]
    assert drawn("dots", "points") == [("5", "6")]
    assert drawn("bars", "bar") == [("7", "0.5"), ("8", "0.75")]
    assert drawn("chance", "level") == [("", "0.5")]
    assert drawn("null", "level") == [("2", ""), ("3", "")]
    assert {(r["panel"], r["y axis"]) for r in found} == {("panel 1", "gap"), ("map", "")}
    assert [(r["x"], r["y"], r["value"]) for r in found if r["kind"] == "matrix"] == [
        ("low", "0.5", "1"),
        ("high", "0.5", "2"),
    ]


def test_a_panel_without_a_title_has_that_of_its_column():
    figure, drawn = plt.subplots(2, 1)
    drawn[0].set_title("above")
    drawn[1].plot([1], [2])
    assert rows(figure)[1][0] == "above"


def test_a_mesh_of_thousands_is_a_picture():
    figure, axes = plt.subplots()
    axes.pcolormesh(np.zeros((100, 100)))
    assert shown.table(figure) == ""

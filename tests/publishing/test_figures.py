"""Every figure drawn on made-up data: what must be on it, that it can be read, and one look for every method."""

import colorsys
import itertools

import numpy as np
import pandas as pd
import pytest

mpl = pytest.importorskip("matplotlib")
mpl.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")

from unlearnlib.methods.catalogue import HOMES  # noqa: E402
from unlearnlib.publishing import figures  # noqa: E402
from unlearnlib.publishing.figures import appearance  # noqa: E402
from unlearnlib.publishing.figures import shown as pages  # noqa: E402

RNG = np.random.default_rng(0)
SIDE = np.linspace(-1, 1, 12)
FIELD = SIDE[:, None] + SIDE[None, :]
SEEDS = (0, 1, 2)


@pytest.fixture(autouse=True)
def drawn():
    figures.style()
    yield
    plt.close("all")


def board(names, *columns):
    """A table of estimates with ends: the value of row k is k / 10 + 0.1."""
    rows = [{"method": name} for name in names]
    for k, row in enumerate(rows):
        for c in columns:
            row |= {c: 0.1 + k / 10, f"{c}_low": 0.05 + k / 10, f"{c}_high": 0.15 + k / 10}
    return pd.DataFrame(rows)


def swept(**columns):
    """Every combination of the values of `columns`, one row a seed."""
    rows = itertools.product(*columns.values(), SEEDS)
    return pd.DataFrame(rows, columns=[*columns, "seed"])


def cloud(n=9):
    return RNG.normal(size=(n, 2)) / 3


MODELS = ("original", "retrain", "retrain, other seed")
GONE, LABEL = np.arange(9) < 3, np.arange(9) % 2
BOARD = board([*MODELS, "finetune", "finetune x10", "salun", "salun x10"], "UA gap", "cost", "distance")
VERDICT_ROWS, VERDICT_COLUMNS = ["identity", "refusal"], ["NoMUS", "KLoM", "ZRF"]
RESPONSES = ["forget accuracy", "retain accuracy", "attack AUC", "distance"]


def measured(value=(1.0, 2.0, 3.0)):
    return swept(value=value).assign(**{c: lambda f, k=k: 0.1 * k + f["value"] / 9 for k, c in enumerate(RESPONSES, 1)})


KNOWN = {name: measured((1.0,)) for name in ("original", "retrain", "null")}
FLOW = pd.DataFrame(
    {
        "path": ["", "L", "R"],
        "depth": [0, 1, 1],
        "n": [9, 4, 5],
        "state": ["updated", "rebuilt", "untouched"],
        "attribute": [2, -1, 1],
    }
)
PLAN = pd.DataFrame(
    [
        (o, v, s, float(v), float(v))
        for o in ("shards", "slices")
        for v in (1, 2, 4)
        for s in ("cumulative", "incremental")
    ],
    columns=["over", "value", "slicing", "speed-up", "law"],
)
SHARES = swept(learner=["SISA, 5 shards", "forest"], size=[1, 5, 20]).assign(share=lambda f: f["size"] / 40)
ATTACK = board(["blind", "retrained"], "advantage").rename(columns={"method": "deleter"})
RATES = pd.DataFrame({"unlearned_rate": [0.6, 0.5], "retrained_rate": [0.5, 0.5]}, index=[0.0, 1.0])
BATCHES = swept(size=[1, 5]).assign(single=0.9, span=1.0)
GROWTH = swept(forget=["random", "one class"], arm=["influence", "Newton, 1 step"], size=[1, 10]).assign(
    error=lambda f: f["size"] / 20
)
SOLVED = pd.DataFrame(
    [(d, s, r) for d in (0.1, 0.01) for s, r in (("cg", [1.0, 0.1, 0.01]), ("K-FAC", [1.0, 2.0]))],
    columns=["damping", "solver", "residuals"],
)
DAMPED = swept(request=["random"], method=["newton", "influence"], damping=[0.1, 1.0]).assign(gap=0.2)
NOISE = swept(request=["random", "class"], dose=[1e-3, 1e-1]).assign(retain=0.9, forget=0.8)
KNOBS = swept(request=["random", "class"], alpha=[1.0, 2.0], knob=[0.1, 0.3]).assign(gap=0.1, cost=-0.1)
CURVES = pd.DataFrame({"output": SIDE, "with": 0.3 + 0 * SIDE, "without": np.linspace(0.01, 0.4, 12)})
ERRORS = pd.DataFrame({"false": np.linspace(0, 1, 9), "missed": np.linspace(1, 0, 9) ** 2})
WAYS = board(["original", "SISA", "SISA"], "test accuracy", "exposure").rename(columns={"method": "way"})
STEPS = swept(method=["a", "b"], series=["one", "two"], steps=[1, 10]).assign(value=lambda f: 1 / f["steps"])
AUDIT = pd.DataFrame(
    [("DP-SGD", True, 0.2, 5.0, 4.0), ("broken", False, 2.0, 1.0, np.nan)],
    columns=["method", "holds", "bound", "certificate", "estimate"],
)
TRACES = swept(variant=["as written", "half clean"], step=[0, 1, 2]).assign(clean=1.0, perturbed=0.5, accuracy=0.7)
TIED = swept(correlation=[0.0, 0.9], method=["original", "retrain", "DLFD as written"]).assign(
    kept=lambda f: -0.1 + f.seed / 100, forgotten=0.2 + 0.01 * np.arange(18)
)
CAPPED = swept(kind=["no cap", "cap"], value=[0.1, 0.4]).assign(gap=0.1, cost=1.0)
LEDGER = pd.DataFrame(
    {"seed": [0, 0, 0], "deletions": [0, 1, 2], "certified": [1e-3, 2e-3, 3e-3], "true": [0, 1e-5, 1e-5]}
)
ENDS = np.array([[0.5, 0.5], [0.2, 0.1]])
PLANE = [{"original": FIELD}, {"original": FIELD, "retrain": FIELD - 0.3, "influence": FIELD + 0.2}]
KLOMS = swept(method=["finetune", "datamodel_matching"], cost=[0.1, 1.0]).assign(forget=2.0, retain=lambda f: f.cost)
CHANGES = swept(set=["forget", "retain"], true=[-2.0, 1.0]).assign(predicted=lambda f: 0.5 * f.true)
PATHS = swept(example=[3, 8], kind=["wrong label"], steps=[0, 10]).assign(margin=lambda f: f.example - f.steps / 9)

# name -> (a figure of made-up data, number of panels, number of lines in the first, entries in its legend or None)
YEAR = swept(policy=["nothing", "SISA"], rate=[0.1, 0.4], batch=[0, 1]).assign(cost=1.0, auc=0.5)
FIGURES = {
    "gallery": (lambda: figures.gallery(np.zeros((6, 1, 4, 4)), ["a", "b"], columns=3), 1, 0, None),
    "boundaries": (
        lambda: figures.boundaries(
            {"original": FIELD, "retrained": FIELD}, cloud(), LABEL, GONE, extent=[-1, 1, -1, 1], unseen=["retrained"]
        ),
        *(2, 4, None),
    ),
    "matrices": (lambda: figures.matrices({"a": np.eye(3), "b": -np.eye(3)}, limit=1.0), 2, 0, None),
    "heat_maps": (
        lambda: figures.heat_maps(KNOBS, {"gap": "the gap"}, by="request", x="alpha", y="knob", labels=("a", "l")),
        *(2, 0, None),
    ),
    "feature_planes": (
        lambda: figures.feature_planes({"original": cloud(), "retrain": cloud()}, LABEL, GONE, names=["no", "yes"]),
        *(2, 3, None),
    ),
    "intervals": (
        lambda: figures.intervals(BOARD, y="method", x="cost", low="cost_low", high="cost_high", label="cost"),
        *(1, 14, None),
    ),
    "null_panels": (lambda: figures.null_panels({"one": BOARD, "two": BOARD}, "UA gap"), 2, 14, None),
    "densities": (lambda: figures.densities({"original": cloud()[:, 0], "scrub": cloud()[:, 0]}, label="m"), 1, 0, 2),
    "density_panels": (lambda: figures.density_panels({"a": {"retrain": cloud()[:, 0]}}, label="m"), 1, 0, 1),
    "scatter_tradeoff": (
        lambda: figures.scatter_tradeoff(BOARD, x="cost", y="UA gap", size="cost", x_label="x", y_label="y"),
        *(1, 14, None),
    ),
    "verdicts": (
        lambda: figures.verdicts(np.eye(2, 3), [["a"] * 3] * 2, rows=VERDICT_ROWS, columns=VERDICT_COLUMNS),
        *(1, 0, None),
    ),
    "curves": (
        lambda: figures.curves(STEPS[STEPS.method == "a"], x="steps", y="value", by="series", label="y", marks=(1, 10)),
        *(1, 2, 2),
    ),
    "budget": (lambda: figures.budget(LEDGER, allowed={"budget": 0.01}, by="seed"), 1, 3, 3),
    "shard_grids": (lambda: figures.shard_grids({"one": (np.eye(3, 4), np.eye(3, 4, dtype=int))}), 1, 0, None),
    "sharding": (
        lambda: figures.sharding(
            swept(shards=[1, 5]).assign(accuracy=0.9), PLAN, {"one network": 0.95, "modules": 0.9}
        ),
        *(3, 3, 3),
    ),
    "deletion_trees": (lambda: figures.deletion_trees({"a split changes": (FLOW, 1)}), 1, 2, None),
    "random_layers": (
        lambda: figures.random_layers(swept(depth=[0, 2]).assign(rebuilt=0.1, accuracy=0.9), {"random forest": 0.9}),
        *(2, 2, None),
    ),
    "queue_costs": (
        lambda: figures.queue_costs(
            swept(learner=["SISA, 5 shards", "ridge"], queue=["uniform", "adaptive"]).assign(mean=0.1)
        ),
        *(1, 8, 2),
    ),
    "shard_attack": (lambda: figures.shard_attack(ATTACK, RATES, [0.6, 0.5]), 2, 5, None),
    "recovered": (lambda: figures.recovered(np.zeros((4, 1, 4, 4)), BATCHES, columns=2), 2, 0, None),
    "break_even": (
        lambda: figures.break_even(SHARES, SHARES[SHARES.learner != "forest"], {"fine-tuning": 0.05}),
        *(1, 5, 3),
    ),
    "influence_plane": (
        lambda: figures.influence_plane(cloud(), LABEL, np.linspace(0.1, 1, 9), SIDE, PLANE, [None, 2], ["a", "b"]),
        *(3, 0, None),
    ),
    "law_and_refits": (
        lambda: figures.law_and_refits(
            pd.DataFrame({"leverage": [0.1, 0.2], "ratio": [0.9, 0.8]}),
            swept(x=[1]).assign(influence=0.1, refit=0.2),
        ),
        *(2, 2, 1),
    ),
    "error_growth": (lambda: figures.error_growth(GROWTH, (1, 10)), 2, 2, None),
    "depth_correlation": (
        lambda: figures.depth_correlation(
            swept(depth=[0, 1], target=["response", "leave-one-out"]).assign(correlation=0.5),
            {"response": "with the response", "leave-one-out": "with retraining"},
        ),
        *(1, 3, 2),
    ),
    "residual_curves": (lambda: figures.residual_curves(SOLVED), 2, 2, None),
    "damping": (
        lambda: figures.damping(DAMPED, {"random": {"original": (0.1, 0.2), "retrain, other seed": (0.0, 0.1)}}),
        *(1, 2, None),
    ),
    "noise_doses": (lambda: figures.noise_doses(NOISE, {"random": 0.7, "class": 0.0}), 2, 3, None),
    "cost_gap": (
        lambda: figures.cost_gap(BOARD, {"finetune": "finetune x10", "salun": "salun x10"}),
        *(1, 9, None),
    ),
    "noise_floor": (
        lambda: figures.noise_floor(
            pd.DataFrame(
                [
                    (n, m, n, 0.0)
                    for n in (0.0, 0.1, 0.2)
                    for m in ("original", "retrain, other seed")
                    for _ in range(2)
                ],
                columns=["noise", "model", "forget", "test"],
            ),
            {"forget": "a", "test": "b"},
        ),
        *(2, 3, None),
    ),
    "dose_error": (
        lambda: figures.dose_error(
            measured(), (0.2, 0.3), {"distance": "forget error", "attack AUC": "retain"}, x="value", label="beta"
        ),
        *(1, 2, 3),
    ),
    "two_known_answers": (
        lambda: figures.two_known_answers(
            *(SIDE, FIELD**2 + 0.1, ENDS, ENDS, [0, 1], [1, 0]),
            swept(step=["plain", "projected"], eta=[0.1, 1.0]).assign(change=lambda f: f.eta),
            {"plain": 1.0, "projected": 2.0},
        ),
        *(2, 4, 4),
    ),
    "responses": (lambda: figures.responses(measured(), KNOWN, RESPONSES, label="beta"), 4, 2, None),
    "dial_grid": (lambda: figures.dial_grid({"tau": measured(), "rho": measured()}, KNOWN, RESPONSES), 8, 2, None),
    "equal_forgetting": (
        lambda: figures.equal_forgetting({"tau": measured(), "rho": measured()}, {"stop": measured()}, KNOWN, "tau"),
        *(1, 5, None),
    ),
    "ratio_cap": (lambda: figures.ratio_cap(CAPPED, 0.2, {"gap": "the gap", "cost": "cost"}), 2, 4, 2),
    "privacy_definition": (lambda: figures.privacy_definition(CURVES, ERRORS, 1.0, 0.1), 2, 3, 4),
    "clipping": (lambda: figures.clipping(cloud(), cloud() / 2, cloud(), 0.2, title="noise"), 3, 3, None),
    "spending": (
        lambda: figures.spending(
            swept(accountant=["PLD", "GDP limit"], epochs=[1, 9]).assign(epsilon=lambda f: f.epochs / 3), (9, 3.2)
        ),
        *(1, 3, 3),
    ),
    "privacy_accuracy": (
        lambda: figures.privacy_accuracy(
            pd.DataFrame({"epsilon": [1.0, 3.0], "value": [0.8, 0.9], "low": [0.7, 0.8], "high": [0.9, 1.0]}),
            **{"label": "DP-SGD", "silent": 0.95, "published": ([1.2], [0.95])},
        ),
        *(1, 5, 3),
    ),
    "groups": (
        lambda: figures.groups(
            swept(mechanism=["Gaussian", "k times epsilon"], size=[1, 5]).assign(epsilon=lambda f: f["size"]),
            swept(promised=[1, 4], one=[0.1, 1.0]).assign(deletions=3),
        ),
        *(2, 2, 2),
    ),
    "exposure": (lambda: figures.exposure(WAYS), 1, 3, 2),
    "noise_clouds": (
        lambda: figures.noise_clouds(
            {0: ENDS, 2: ENDS},
            ENDS[1],
            {k: {"original": cloud(), "retrain": cloud()} for k in (0, 2)},
            SIDE,
            FIELD**2,
        ),
        *(2, 4, None),
    ),
    "noise_against_steps": (lambda: figures.noise_against_steps(STEPS, {"a": "noise", "b": "epsilon"}), 2, 2, 2),
    "sandwich": (lambda: figures.sandwich(AUDIT, cap=15, label="epsilon"), 1, 8, None),
    "collapse_traces": (lambda: figures.collapse_traces(TRACES), 2, 4, 4),
    "entanglement": (lambda: figures.entanglement(TIED, ("kept", "forgotten")), 2, 3, None),
    "repaired": (
        lambda: figures.repaired(
            swept(source=["real", "noise"], dose=[7, 40], pictures=[1, 20]).assign(**{"retain accuracy": 0.8}),
            swept(source=["damaged", "recall"], dose=[7, 40]).assign(**{"retain accuracy": 0.5}),
            *((0.9, 0.92), ["real", "noise"]),
        ),
        *(2, 4, None),
    ),
    "transfer": (
        lambda: figures.transfer(
            swept(threshold=[1.0, 0.01], round=[0, 50]).assign(retain=0.9, forget=lambda f: f["round"] / 100),
            (0.9, 0.95),
        ),
        *(2, 2, 2),
    ),
    "pruned_gaps": (
        lambda: figures.pruned_gaps(swept(mask=["from all data", "from the rest"], kept=[0.1, 1.0]).assign(gap=0.1)),
        *(1, 3, 2),
    ),
    "klom_over_cost": (
        lambda: figures.klom_over_cost(KLOMS, ["forget", "retain"], KLOMS, {"original": KLOMS, "direct": KLOMS}),
        *(2, 4, None),
    ),
    "score_over_models": (
        lambda: figures.score_over_models(
            swept(models=[100, 500], set=["train", "test"]).assign(score=lambda f: f.models / 1000), {"influence": 0.6}
        ),
        *(1, 3, 3),
    ),
    "margin_changes": (
        lambda: figures.margin_changes({"a": CHANGES, "b": CHANGES}, dict.fromkeys("ab", {"forget": 0.5, "retain": 1})),
        *(2, 3, 2),
    ),
    "margin_paths": (lambda: figures.margin_paths({"a": PATHS, "b": PATHS}, {3: 1.0, 8: 2.0}), 2, 4, 1),
    "forgetting_paths": (
        lambda: figures.forgetting_paths(
            swept(method=["npo", "finetune"], steps=[0, 10, 20]).assign(forget=lambda f: f.steps / 30, retain=0.9),
            (0.1, 0.2),
            pd.DataFrame({"forget": [0.1, 0.2], "retain": [0.9, 1.0]}),
        ),
        *(1, 4, None),
    ),
    "ratio_histograms": (
        lambda: figures.ratio_histograms({name: np.exp(RNG.normal(size=30)) for name in MODELS[:2]}, [0.5, 1, 1e9]),
        *(2, 1, None),
    ),
    "forgetting_costs": (
        lambda: figures.forgetting_costs(
            board(["a", "b", "c", "d"], "cost", "agreement", "obeyed").assign(family=["PGA", "PGA", "FedEraser", "x"]),
            {"agreement": "agreement", "obeyed": "obeyed"},
            {"agreement": (0.2, 0.3), "obeyed": (0.1, 0.2)},
            {"agreement": (0, 1), "obeyed": (0, 1)},
        ),
        *(2, 3, None),
    ),
    "washing_out": (
        lambda: figures.washing_out(
            swept(method=["just leaves", "retrain"], round=[1, 2, 3]).assign(obeyed=lambda f: f["round"] / 4),
            request=2,
            names=["just leaves", "retrain"],
        ),
        *(1, 3, 2),
    ),
    "crowds_over_pictures": (
        lambda: figures.crowds_over_pictures(
            swept(method=["original", "salun", "noise_target"]).assign(
                I=lambda f: f.seed + 1.0, FD=lambda f: 3.0 + f.seed
            ),
            *((1.5, 2.0), 3.0),
        ),
        *(1, 16, None),
    ),
    "forget_rates": (
        lambda: figures.forget_rates(swept(method=["salun", "redirect"], steps=[25, 50]).assign(rate=0.5), 0.0),
        *(1, 3, None),
    ),
    "plane_samples": (
        lambda: figures.plane_samples({"original": cloud(), "cascade": cloud()}, cloud(8), 3),
        2,
        1,
        None,
    ),
    "published_in_intervals": (
        lambda: figures.published_in_intervals([("a", 0.5), ("b", -1.5), ("c", 40.0)]),
        1,
        4,
        None,
    ),
    "year": (
        lambda: figures.year(YEAR, {"cost": "c", "auc": "a"}, ["nothing", "SISA"]),
        *(4, 2, None),
    ),
    "year_ends": (
        lambda: figures.year_ends(
            board(["nothing", "SISA"], "damage").rename(columns={"method": "policy"}).assign(rate=0.1),
            {"damage": "d"},
            ["nothing", "SISA"],
        ),
        *(1, 6, None),  # two of each policy, the zero, and the entry of the legend
    ),
    "budget_spent": (
        lambda: figures.budget_spent({"few": [([0, 3], [0, 0.1])], "many": [([0, 9], [0, 0.3])] * 2}, 0.5),
        *(1, 4, 3),
    ),
    "distance_over_cost": (
        lambda: figures.distance_over_cost(
            board([*MODELS, "f2", "f5", "scrub, tuned", "scrub, published"], "distance", "cost"),
            {"finetune": ["f2", "f5"]} | {"retrain": ["f2", "f5"]},
            {"scrub, tuned": True, "scrub, published": False},
        ),
        *(1, 3, None),
    ),
    "duels": (
        lambda: figures.duels(
            board(["scrub, tuned", "ssd, published"], "gap").assign(tuned=[True, False]), x="gap", label="d"
        ),
        *(1, 5, None),
    ),
}
# they draw into a panel that another one gives
PARTS = {"boundary", "design_matrix", "regions", "style", "colour", "look", "panels", "series"}


def sheet(made):
    return made.figure if isinstance(made, mpl.axes.Axes) else made


def shown(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def luminance(colour):
    rgb = np.array(mpl.colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast(colour):
    """To white, as the web's accessibility guidelines define it."""
    return 1.05 / (luminance(colour) + 0.05)


def test_every_figure_of_the_package_is_drawn_here():
    constants = {name for name in dir(figures) if name.isupper()}
    assert set(figures.__all__) - constants - PARTS == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_what_it_should_and_can_be_read(name):
    make, panels, lines, entries = FIGURES[name]
    figure = sheet(make())
    figure.canvas.draw()
    assert len(shown(figure)) == panels
    assert len(shown(figure)[0].lines) == lines
    legend = shown(figure)[0].get_legend()
    assert (legend and len(legend.get_texts())) == entries
    assert figure.get_figwidth() <= appearance.WIDTH + 1e-9
    texts = [t for t in figure.findobj(mpl.text.Text) if t.get_visible() and t.get_text().strip()]
    assert texts and min(t.get_fontsize() for t in texts) >= 9
    for axes in shown(figure):
        for mark in axes.get_legend_handles_labels()[0]:
            parts = mark.get_children() if hasattr(mark, "get_children") and not hasattr(mark, "get_color") else [mark]
            for part in parts:
                if isinstance(part, mpl.lines.Line2D):
                    assert contrast(part.get_color()) >= 3, part.get_label()
    with pages._narrowed(figure):  # on a phone, and as numbers
        assert figure.get_figwidth() == pages.NARROW
    assert len(pages.table(figure).splitlines()) <= pages.MOST_NUMBERS + 1


def test_public_names_work_under_the_short_name_too():
    import unlearnlib.figures as short

    assert short.gallery is figures.gallery and short.COLOURS is figures.COLOURS


def test_every_method_has_one_look_of_its_own():
    assert set(HOMES) - {"retrain"} < set(figures.TABLE)
    assert {"original", "retrain", "retrain, other seed"} < set(figures.TABLE)
    looks = list(figures.TABLE.values())
    assert len(set(looks)) == len(looks)
    assert figures.look("salun x10") == figures.look("salun, tuned") == figures.TABLE["salun"]
    assert figures.colour("scrub", ["ssd", "scrub"]) == figures.colour("scrub", ["scrub"]) == figures.colour("scrub")


def test_names_in_no_table_take_their_place_and_nothing_cycles():
    names = ["retrain", *(f"dial {k}" for k in range(10))]
    places = [figures.look(name, names) for name in names[1:]]
    assert places == [figures.series(k) for k in range(10)] and len(set(places)) == 10
    with pytest.raises(ValueError, match="draw panels instead"):
        figures.look("dial 10", [*names, "dial 10"])


def _colours():
    return sorted({colour for colour, _ in figures.TABLE.values()} | {figures.series(k)[0] for k in range(10)})


@pytest.mark.parametrize("colour", _colours())
def test_colours_stand_out_from_white_and_none_is_yellow(colour):
    assert contrast(colour) >= 3
    hue, _, saturation = colorsys.rgb_to_hls(*mpl.colors.to_rgb(colour))
    assert saturation < 0.2 or not 45 <= 360 * hue <= 65


# linear RGB as it is seen without one kind of cone: Machado, Oliveira and Fernandes 2009, severity 1
SIGHT = {
    "all cones": np.eye(3),
    "no red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no blue cones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(colour, sight):
    rgb = np.array(mpl.colors.to_rgb(colour))
    linear = np.clip(sight @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(to_xyz) @ linear / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
def test_families_differ_for_every_kind_of_sight(sight):
    """Ten units of CIELAB are a clear difference; one is just noticed."""
    colours = {appearance.BLUE, appearance.GREY, *(shade for shade, _ in appearance._FAMILIES.values())}
    seen = {c: lab(c, np.array(SIGHT[sight])) for c in colours}
    near = [(a, b) for a, b in itertools.combinations(seen, 2) if np.linalg.norm(seen[a] - seen[b]) < 10]
    assert near == []


def test_unseen_points_are_not_drawn_and_marked_ones_are_ringed():
    points = np.arange(18.0).reshape(9, 2)
    figure = figures.boundaries(
        {"original": FIELD, "retrained": FIELD}, points, LABEL, GONE, extent=[0, 1, 0, 1], unseen=["retrained"]
    )
    counts = [sum(len(line.get_xdata()) for line in axes.lines) for axes in figure.axes]
    assert counts == [9, 6]


def test_points_of_cost_and_gap_stand_where_they_were_measured():
    figure = figures.cost_gap(BOARD, {"finetune": "finetune x10"})
    at = BOARD.set_index("method")
    first, *_, last = [line for line in figure.axes[0].lines if line.get_marker() == figures.look("finetune")[1]]
    assert first.get_xydata().tolist() == [[at.loc["finetune", "cost"], at.loc["finetune", "UA gap"]]]
    assert last.get_xydata().tolist() == [[at.loc["finetune x10", "cost"], at.loc["finetune x10", "UA gap"]]]


def test_histograms_of_one_colour_differ_by_their_line_and_hold_every_score():
    names = ("DLFD as written", "DLFD as released", "retrain")
    axes = figures.densities({name: np.linspace(-1, 1, 100) + i for i, name in enumerate(names)}, label="m", bins=4)
    shades = [patch.get_edgecolor() for patch in axes.patches]
    lines = [patch.get_linestyle() for patch in axes.patches]
    assert shades[0] == shades[1] != shades[2] and lines[0] != lines[1]
    for patch in axes.patches:
        heights, edges, _ = patch.get_data()
        assert np.sum(heights * np.diff(edges)) == pytest.approx(1)


def test_the_null_lies_behind_and_rows_read_from_above():
    axes = figures.intervals(
        BOARD, y="method", x="cost", low="cost_low", high="cost_high", label="cost", null=(0.2, 0.3)
    )
    assert [t.get_text() for t in axes.get_yticklabels()] == list(BOARD.method)
    assert axes.get_ylim() == (len(BOARD) - 0.5, -0.5)
    (span,) = axes.patches
    assert span.get_zorder() == 0 and np.allclose(
        span.get_extents().transformed(axes.transData.inverted()).intervalx, (0.2, 0.3)
    )
    dots = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
    assert np.allclose(dots, BOARD.cost)


def test_a_refuted_certificate_is_red():
    axes = figures.sandwich(AUDIT, cap=15, label="epsilon").axes[0]
    bars = [line.get_color() for line in axes.lines if len(line.get_xdata()) == 2]
    assert bars == [appearance.BLUE, appearance.RED]


def test_a_picture_keeps_its_pixels_and_the_rows_their_names():
    axes = figures.gallery(np.stack([np.full((1, 2, 2), v) for v in (0.0, 0.25, 0.5, 0.75)]), ["a", "b"], columns=2)
    image = axes.images[0].get_array()
    assert (
        image.shape == (6, 6) and image[0, 0] == 0 and image[0, 4] == 0.25 and image[4, 0] == 0.5 and image[2, 2] == 1
    )
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]


def test_regions_show_three_classes_and_two_borders():
    _, (axes,) = figures.panels(1)
    labels = np.arange(9) % 3
    field = np.digitize(FIELD, [-0.5, 0.5])
    figures.regions(
        axes, (cloud(), labels, GONE), field, side=SIDE, title="t", frame={"original": field, "retrain": field}
    )
    assert len(axes.lines) == 6 and axes.get_xlim() == (-1, 1)
    assert len(axes.collections) == 3


def test_a_design_marks_its_columns():
    _, (axes,) = figures.panels(1)
    figures.design_matrix(np.zeros((4, 6)), names=("a", "b", "c"), marked={2: "game"}, title="t", axes=axes)
    assert [t.get_text() for t in axes.texts] == ["game"] and axes.patches[0].get_x() == 2
    assert len(axes.get_legend().get_texts()) == 3


def test_a_line_of_margin_changes_has_the_slope_that_is_told():
    axes = figures.margin_changes({"a": CHANGES}, {"a": {"forget": 0.5, "retain": 0.5}}).axes[0]
    identity, *fits = [np.polyfit(*line.get_data(), 1) for line in axes.lines]
    assert np.allclose(identity, [1, 0]) and all(np.allclose(fit, [0.5, 0], atol=1e-9) for fit in fits)
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["forget: slope 0.50", "retain: slope 0.50"]


def test_paths_of_margins_end_beside_the_stars_of_their_own_example():
    axes = figures.margin_paths({"a": PATHS[PATHS.seed == 0]}, {3: -1.0, 8: 2.0}).axes[0]
    stars = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "*"]
    ends = [line.get_ydata()[-1] for line in axes.lines if line.get_marker() != "*"]
    assert stars == [-1.0, 2.0] and ends == pytest.approx([3 - 10 / 9, 8 - 10 / 9])


def test_members_of_a_family_are_joined_in_the_order_of_their_cost_with_their_intervals():
    frame = board(["a", "b", "c"], "cost", "obeyed").assign(family="PGA", cost=[0.6, 0.1, 0.3])
    axes = figures.forgetting_costs(frame, {"obeyed": "o"}, {"obeyed": (0.1, 0.2)}, {"obeyed": (0, 1)}).axes[0]
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [0.1, 0.3, 0.6] and line.get_ydata() == pytest.approx([0.2, 0.3, 0.1])
    assert line.get_color() == figures.colour("neggrad")
    bars = [c for c in axes.collections if isinstance(c, mpl.collections.LineCollection)][0].get_segments()
    assert bars[0][:, 1] == pytest.approx([0.15, 0.25])
    rows = swept(method=["retrain"], round=[1, 2]).assign(obeyed=lambda f: f["round"] / 4)
    axes = figures.washing_out(rows, request=1, names=["retrain"]).axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx([0.25, 0.5]) and axes.lines[1].get_xdata() == [1, 1]


def test_samplers_stand_at_their_means():
    frame = swept(method=["original", "salun"]).assign(I=lambda f: f.seed + 1.0, FD=lambda f: 3.0 + f.seed)
    axes = figures.crowds_over_pictures(frame, (1.5, 2.0), 3.0).axes[0]
    points = [bars.lines[0].get_xydata()[0].tolist() for bars in axes.containers]
    assert points == [[2.0, 4.0], [2.0, 4.0]] and axes.get_yscale() == "log"


def test_paths_end_where_their_markers_stand_and_extreme_ratios_are_counted():
    frame = swept(method=["npo"], steps=[0, 10, 20]).assign(forget=lambda f: 1 - f.steps / 40, retain=0.9)
    axes = figures.forgetting_paths(frame, (0.1, 0.2), pd.DataFrame({"forget": [0.1], "retain": [0.9]})).axes[0]
    path, end = axes.lines
    assert path.get_xdata()[-1] == end.get_xdata()[0] == 0.5 and len(path.get_xdata()) == 3
    panel = shown(figures.ratio_histograms({"npo": [1e9, 1e-9, 1.5, 1.5]}, [1.5]))[0]
    heights = [bar.get_height() for bar in panel.patches[:24]]
    assert heights[0] == heights[-1] == 0.25 and sum(heights) == 1

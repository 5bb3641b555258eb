"""What a configuration says, and that no configuration, however odd, is worse than refused."""

import copy
import json
import math
import re
import tracemalloc
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

import tod.config as configuration
from tests.support.loading import refused
from tod.config import CONFIG_DIR, Config, InputError
from tod.config.schema import DATASETS, OWN_IMAGES, Section
from tod.config.settings import as_yaml, in_spans
from tod.config.settings import flat as dotted

COMMON = """
active_learning: {trials: 3, cycles: 7, initial: random, imbalance: null, audit_share: 0.0}
active_learning.check_share: 0.0
active_learning.target_accuracy: null
training: {batch_size: 128, epochs: 200, lr: 0.1, momentum: 0.9, weight_decay: 0.0005}
training.milestones: [160]
training.fresh_weights: false
cod: {ema_decay: 0.999, fixed_batch_in_first_cycle: true}
ll4al: {margin: 1.0, weight: 1.0, detach_epoch: 120}
augmentation: {flip: true, crop_padding: 4}
model: {name: resnet, width: 64, pretrained: false, dropout: 0.0}
model.extractor: efficientnet_lite0
model.extractor_size: null
images: {resize: null, size: null, unreadable: refuse, test_share: null}
images.mean: [0.4914, 0.4822, 0.4465]
images.std: [0.2023, 0.1994, 0.2010]
scoring: {augment: false, lowest_in_first_cycle: true}
data_dir: data
"""
CIFAR = "active_learning: {initial_labels: 5000, query_size: 2500, subset_size: 25000}\n"
PAPER = {
    "cifar10": f"{CIFAR}cod.weight: 0.02",
    "cifar100": f"{CIFAR}cod.weight: 0.05",
    "svhn": """
active_learning: {initial_labels: 7324, query_size: 3662, subset_size: 29302}
cod.weight: 0.005
images: {mean: [0.4310, 0.4302, 0.4463], std: [0.1965, 0.1984, 0.1992]}
scoring.augment: true
""",
    "caltech101": """
active_learning: {initial_labels: 868, query_size: 434, subset_size: 4340}
training: {batch_size: 64, epochs: 50, lr: 0.01, milestones: [40]}
cod.weight: 0.1
ll4al.detach_epoch: 30
augmentation.crop_padding: 0
model: {name: imagenet_resnet, pretrained: true}
images: {resize: 256, size: 224, mean: [0.502, 0.502, 0.502], std: [1.0, 1.0, 1.0]}
scoring.augment: true
""",
}
SMALL_NETWORK = "cifar10_small_network"
ON_FEATURES = {
    "cifar10_features": "cifar10",
    "caltech101_features": "caltech101",
    "own_photographs": OWN_IMAGES,
}
"""Configurations of linear heads, and whose images they have."""
DIGITS = configuration.load("digits").as_dict()
KEYS = sorted(f"{s}.{k}" for s, v in DIGITS.items() if isinstance(v, dict) for k in v)


def flat(config: Config) -> dict:
    return dotted(config.as_dict())


def problems_of(*arguments) -> list[str]:
    return refused(configuration.load, *arguments, lines=0).splitlines()


def write(path: Path, values: dict) -> str:
    path.write_text(as_yaml(values), encoding="utf-8")
    return str(path)


def test_every_shipped_configuration_is_expected_here():
    expected = sorted([*PAPER, "digits", "image_folder", OWN_IMAGES])
    assert sorted(DATASETS) == expected
    assert configuration.config_names() == sorted([*expected, SMALL_NETWORK, *ON_FEATURES])


@pytest.mark.parametrize("name", PAPER)
def test_configuration_holds_the_papers_settings(name):
    common, own = (dotted(yaml.safe_load(text)) for text in (COMMON, PAPER[name]))
    assert flat(configuration.load(name)) == {"dataset": name, **common, **own}


def test_the_small_network_differs_from_the_papers_in_size_and_epochs_alone():
    scaled = """
model.width: 16
active_learning.trials: 1
training: {epochs: 30, milestones: [24]}
ll4al.detach_epoch: 18
images: {mean: null, std: null}
"""
    papers = flat(configuration.load("cifar10"))
    expected = {**papers, **dotted(yaml.safe_load(scaled))}
    assert flat(configuration.load(SMALL_NETWORK)) == expected


@pytest.mark.parametrize("name", ON_FEATURES)
def test_networks_on_features_differ_from_others_in_the_network_and_its_training(name):
    """The training, which suits features of unit length, is the same for all."""
    other = flat(configuration.load(ON_FEATURES[name]))
    own = flat(configuration.load(name))
    differ = {key for key in own if own[key] != other[key]}
    sections = {key.partition(".")[0] for key in differ}
    assert sections <= {
        "model",
        "images",
        "augmentation",
        "active_learning",
        "training",
        "ll4al",
        "scoring",
    }
    assert own["dataset"] == other["dataset"] and own["cod.weight"] == other["cod.weight"]
    training = configuration.load(name).training
    assert training == configuration.load("own_photographs").training


def test_training_sets_have_the_papers_sizes():
    sizes = [DATASETS[name].training_images for name in PAPER]
    assert sizes == [50_000, 50_000, 73_257, 7_766]


@pytest.mark.parametrize(
    ("name", "cycles"), [("digits", (100, 50, 7)), ("image_folder", (1000, 500, 5))]
)
def test_other_datasets_have_the_cycles_of_the_documentation(name, cycles):
    active = configuration.load(name).active_learning
    assert (active.initial_labels, active.query_size, active.cycles) == cycles


@pytest.mark.parametrize("name", DATASETS)
def test_shipped_file_shows_every_value_that_matters(name):
    shown = yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text(encoding="utf-8"))
    resolved = configuration.load(name).as_dict()
    hidden = {"dropout", "fresh_weights", "initial", "imbalance", "audit_share", "test_share"}
    hidden |= {"extractor", "extractor_size", "target_accuracy", "check_share"}
    of_people = {"audit_share", "check_share", "target_accuracy"}
    hidden -= {"image_folder": {"test_share"}, OWN_IMAGES: of_people}.get(name, set())
    if not DATASETS[name].are_files:
        hidden |= {"resize", "size", "unreadable"}
    assert list(shown) == list(resolved)
    for section, values in resolved.items():
        if isinstance(values, dict):
            assert list(shown[section]) == [key for key in values if key not in hidden]


@pytest.mark.parametrize("name", DATASETS)
def test_resolved_configuration_read_back_is_the_same(name, tmp_path):
    config = configuration.load(name, ["training.lr=0.03", "training.milestones=[]"])
    assert configuration.load(write(tmp_path / f"{name}.yaml", config.as_dict())) == config


def test_a_run_folders_config_is_a_configuration_with_what_the_run_added(tmp_path):
    # Texts that look like numbers stay texts.
    run = {"class_names": ["12e4", "1e-4", ".5", "apple", "7"], "seed": 3, "entry": "main_TOD.py"}
    settings = {**DIGITS, "data_dir": "1e5"}
    path = write(tmp_path / "config.yaml", {**settings, "run": run})
    assert configuration.load(path).as_dict() == settings
    assert configuration.read_run(tmp_path, "") == {**settings, "run": run}


def test_configuration_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        configuration.load("digits").training.lr = 1.0


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        *(("training.lr", text, float(text)) for text in ("1", "5.0e-3", ".5", "1e-4", "1E5")),
        *(("training.lr", text, float(text)) for text in ("2E1", "2.5e-3", "+1.e3")),
        ("images.mean", "[1e-1, 5E-1, +.5]", [0.1, 0.5, 0.5]),
        ("images.mean", "[0, 0.5, 1]", [0.0, 0.5, 1.0]),
        ("images.mean", "null", None),
        ("images.mean", "", None),
        ("training.milestones", "[]", []),
        ("training.milestones", "[5, 10]", [5, 10]),
        ("data_dir", "a=b", "a=b"),
        ("augmentation.flip", "true", True),
        (" training.epochs ", "40", 40),
    ],
)
def test_a_value_of_a_file_or_of_an_override_is_yaml_and_changes_nothing_else(
    tmp_path, key, written, value
):
    before = flat(configuration.load("digits"))
    overridden = configuration.load("digits", [f"{key}=[]", f"{key}={written}"])  # the last counts
    assert flat(overridden) == {**before, key.strip(): value}
    if key == "training.lr":
        text = (CONFIG_DIR / "digits.yaml").read_text(encoding="utf-8")
        path = tmp_path / "mine.yaml"
        path.write_text(text.replace("lr: 0.02", f"lr: {written}"), encoding="utf-8")
        assert flat(configuration.load(str(path))) == {**before, key: value}


def test_data_dir_of_the_command_line_wins():
    assert configuration.load("digits", ["data_dir=a"], "b c/ö").data_dir == "b c/ö"


def test_a_name_is_found_from_any_folder_and_a_file_names_its_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configuration.load("digits").name == "digits"
    assert configuration.load(write(tmp_path / "my images.v2.yaml", DIGITS)).name == "my images.v2"


def test_all_problems_are_listed_at_once(tmp_path):
    values = copy.deepcopy(DIGITS) | {"learning_rate": 1, "dataset": "mnist", "cod": 5}
    values["training"] |= {"lr": "fast", "epohcs": values["training"].pop("epochs")}
    values["images"]["mean"] = [0.5, "x", "y"]
    values["ll4al"]["margin"] = math.nan
    del values["scoring"]
    path = write(tmp_path / "mine.yaml", values)
    lines = problems_of(path, ["model.width=0"])
    wrong = ["learning_rate", "dataset", "training.lr", "training.epohcs", "training.epochs"]
    wrong += ["images.mean", "cod", "ll4al.margin", "scoring", "model.width"]
    sources = {key: "--set model.width=0" if key == "model.width" else path for key in wrong}
    assert sorted(line.split(": ")[:2] for line in lines) == sorted(
        [source, key] for key, source in sources.items()
    )


def test_contradictions_are_listed_beside_wrong_values():
    wrong = ["training.lr=x", "training.milestones=[99]", "active_learning.query_size=600"]
    lines = problems_of("digits", wrong)
    said = ("'x' should", "99 lies beyond the 15 epochs", "500 is smaller", "3700 labels")
    assert len(lines) == 4 and all(words in "\n".join(lines) for words in said)


@pytest.mark.parametrize(
    ("name", "wrong", "contradicted"),
    [
        ("digits", "training.epochs=few", "training.milestones=[99]"),
        ("image_folder", "images.resize=large", "images.size=null"),
    ],
)
def test_what_a_wrong_value_contradicts_is_not_told(name, wrong, contradicted):
    (line,) = problems_of(name, [wrong, contradicted])
    assert "{}: '{}'".format(*wrong.split("=")) in line


def test_what_a_whole_section_lacks_is_the_overrides_fault():
    lines = problems_of("digits", ["cod={weight: 0.1}", "ll4al={weight: x}", "ll4al.margin=1"])
    told = {": ".join(line.split(": ")[:-1]) for line in lines}
    assert len(lines) == len(told) == 4
    assert told > {
        "--set cod={weight: 0.1}: cod.ema_decay",
        *(f"--set ll4al={{weight: x}}: ll4al.{key}" for key in ("weight", "detach_epoch")),
    }


def test_a_merged_mapping_may_be_overridden(tmp_path):
    text = as_yaml(DIGITS).replace("cod: {", "cod: &cod {", 1)
    merged = "\nrun: {a: {<<: *cod, weight: 1}, b: {c: &c {<<: *cod, weight: 2}, d: {<<: *c}}}\n"
    (tmp_path / "config.yaml").write_text(text + merged, encoding="utf-8")
    run = configuration.read_run(tmp_path, "")["run"]
    assert run["a"] == {**DIGITS["cod"], "weight": 1}
    assert run["b"]["d"] == run["b"]["c"] == {**DIGITS["cod"], "weight": 2}


def test_a_single_cycle_queries_nothing_and_may_have_all_labels():
    overrides = ["active_learning.subset_size=1", "active_learning.query_size=5000"]
    assert configuration.load("digits", [*overrides, "active_learning.cycles=1"])
    lines = problems_of("digits", [*overrides, "active_learning.cycles=2"])
    named = ["active_learning.query_size", "active_learning.subset_size"]
    assert [line.split(": ")[1] for line in lines] == named
    everything = "active_learning.initial_labels=null"
    assert configuration.load("digits", [everything, "active_learning.cycles=1"])
    (line,) = problems_of("digits", [everything])
    assert "initial_labels: null is all images" in line and "cycles: 1" in line


def test_a_runs_configuration_that_cannot_be_read_gets_the_callers_advice(tmp_path):
    path = tmp_path / "config.yaml"
    for content, reason in (
        (None, "No such file"),
        (b"", "it holds no settings"),
        (b"run: [", "it is not YAML: line 1"),
        (b"dataset: digits", "it has no section run"),
        (b"run: 3", "it has no section run"),
        (b"\xff", "decode"),
    ):
        if content is not None:
            path.write_bytes(content)
        line = refused(configuration.read_run, tmp_path, "copy it back")
        begins, ends = rf"{path}: cannot be read \(", "; copy it back"
        assert re.fullmatch(f"{begins}.*{re.escape(reason)}.*{ends}", line)


def assert_sound(config: Config) -> None:
    """What every accepted configuration promises beside the bounds of its single values."""
    active, training = config.active_learning, config.training
    cycles = active.cycles
    if config.facts.from_people:
        assert (active.trials, cycles) == (1, None)
        assert active.audit_share == active.check_share == 0 or active.query_size >= 2
        cycles = 2
    else:
        assert active.initial_labels or cycles == 1
    labels = (active.initial_labels or 2) + (cycles - 1) * active.query_size
    assert labels <= (config.facts.training_images or math.inf)
    # A single cycle queries nothing.
    assert active.query_size <= active.subset_size or cycles == 1
    assert list(training.milestones) == sorted(set(training.milestones))
    assert all(0 < milestone <= training.epochs for milestone in training.milestones)
    json.dumps(config.as_dict(), allow_nan=False)


SOUND = {name: configuration.load(name) for name in configuration.config_names()}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("configurations") / "any.yaml"


def check(path: Path, *arguments: object) -> None:
    """A sound configuration, as which it is read back, or a refusal in readable lines."""
    try:
        config = configuration.load(*arguments)
    except InputError as refusal:
        for line in str(refusal).split("\n"):
            assert line.isprintable() and 0 < len(line) <= 400
    else:
        assert_sound(config)
        settings = config.as_dict()
        assert configuration.load(write(path, settings)).as_dict() == settings


# Derandomised, so that a change is blamed for a failure only where it made it.
many = settings(max_examples=150, deadline=None, database=None, derandomize=True)

numbers = (
    st.integers(-3, 10_000)
    | st.sampled_from([10**30, 10**400, -(2**63), 2**62, 2**63 - 1, 2**63, 2**64])
    | st.floats()
    | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e-320, 1e300])
)
names = st.sampled_from([*DIGITS, *KEYS, *(key.split(".")[1] for key in KEYS), "run", "name"])
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8) | st.binary(max_size=4) | names
values = st.recursive(
    scalars | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(scalars | names, inner, max_size=4),
    max_leaves=8,
)
yaml_tokens = [
    *"[]{}=|>#\n\t\0 @`'\"",
    *(": ", ", ", "- ", "? ", "&a ", "*a", "<<: ", "---", "...", "''", '""', "%YAML 1.1"),
    *("!!int ", "!!float ", "!!bool ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!str "),
    *("!!python/object/apply:os.getcwd ", "!x ", "~", "\ufeff", "\x85"),
    *("1e-4", ".nan", "-.inf", "0x" + "f" * 5000, "9" * 5000, "0b", "1:2:3", "2001-13-45"),
    *("0001-01-01 00:00:00+23:59", '"\\ud800"', '"\\0"'),
]
yaml_like = st.lists(st.sampled_from([*yaml_tokens, *DIGITS, *KEYS]), max_size=10).map("".join)


@many
@given(document=values.map(yaml.safe_dump) | yaml_like | st.text(max_size=20))
@example(document="&a {model: *a}")
@example(document="!!int ''")
@example(document="dataset: !!timestamp x")
@example(document="[" * 5000)
@example(document="dataset: 0x" + "f" * 5000)
def test_no_file_can_cause_a_traceback(path, document):
    path.write_text(document, encoding="utf-8")
    check(path, str(path))


REMOVED = "removed"
places = (
    st.sampled_from(KEYS)
    | st.sampled_from([*DIGITS])
    | st.tuples(st.sampled_from([*DIGITS]), names).map(".".join)
)
new_values = values | numbers | st.lists(numbers, max_size=3) | st.just(REMOVED)


@many
@given(
    name=st.sampled_from([*SOUND]),
    changes=st.lists(st.tuples(places, new_values), min_size=1, max_size=4),
)
def test_no_damaged_configuration_can_cause_a_traceback(path, name, changes):
    damaged = SOUND[name].as_dict()
    for place, value in changes:
        section, _, key = place.rpartition(".")
        target = damaged.get(section) if section else damaged
        if isinstance(target, dict):
            target[key] = value
            if value is REMOVED:
                del target[key]
    path.write_text(yaml.safe_dump(damaged, sort_keys=False), encoding="utf-8")
    check(path, str(path))


@many
@given(
    overrides=st.lists(
        st.text(max_size=12)
        | yaml_like
        | st.tuples(
            st.sampled_from([*KEYS, *DIGITS, "training.lr.x", ".", "run.seed"]),
            yaml_like | values.map(lambda v: yaml.safe_dump(v, default_flow_style=True)),
        ).map("=".join),
        max_size=3,
    )
)
@example(overrides=["training.lr=!!float ''"])
@example(overrides=["training.epochs=0x" + "f" * 5000])
@example(overrides=[f"active_learning.trials={2**62}"])
def test_no_override_can_cause_a_traceback(path, overrides):
    check(path, "digits", overrides)


def test_deep_nesting_is_refused(path):
    # Aliases nest deeper than YAML's own parser could follow.
    nested = "".join(f"- &a{i} [*a{i - 1}]\n" for i in range(1, 3000))
    path.write_text(f"x:\n- &a0 []\n{nested}dataset: *a2999\n", encoding="utf-8")
    assert "dataset" in "".join(problems_of(str(path)))


def test_a_file_that_multiplies_itself_is_refused_without_writing_it_out(path):
    levels = "".join(f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 8))
    path.write_text(f"a: &a0 [x]\n{levels}dataset: *a7\n", encoding="utf-8")
    tracemalloc.start()
    try:
        problems = problems_of(str(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "dataset" in "".join(problems)
    assert peak < 10_000_000


def test_a_section_that_an_earlier_version_did_not_know_has_its_defaults(tmp_path, monkeypatch):
    class Later(Section):
        weight: float = 0.5

    class WithIt(Config):
        later: Later = Field({})

    settings = {**DIGITS, "run": {"seed": 3}}
    write(tmp_path / "config.yaml", settings)
    monkeypatch.setattr(configuration, "Config", WithIt)
    assert configuration.read_run(tmp_path, "") == {**settings, "later": {"weight": 0.5}}


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ([], ""),
        ([2, 0, 1], "0, 1, 2"),
        (range(20), "0 to 19"),
        ([*range(4), 5, 9, 8, 7, 6, 100], "0 to 3, 5 to 9, 100"),
        ([0, 1, 2, 4, 5, 6, 7], "0, 1, 2, 4 to 7"),
    ],
)
def test_numbers_in_a_row_are_shown_as_spans(numbers, shown):
    assert in_spans(numbers) == shown

"""What a configuration says, and that no configuration, however odd, is worse than refused."""

import copy
import math
import tracemalloc
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

import tod.config as configuration
from tod.config import CONFIG_DIR, Config, InputError
from tod.schema import DATASETS, FILE_DATASETS, OWN_IMAGES, TRAINING_SET_SIZES, Section
from tod.settings import as_yaml
from tod.settings import flat as dotted

COMMON = """
active_learning: {trials: 3, cycles: 7, initial: random, imbalance: null, audit_share: 0.0}
training: {batch_size: 128, epochs: 200, lr: 0.1, momentum: 0.9, weight_decay: 0.0005}
training.milestones: [160]
training.fresh_weights: false
cod: {ema_decay: 0.999, fixed_batch_in_first_cycle: true}
ll4al: {margin: 1.0, weight: 1.0, detach_epoch: 120}
augmentation: {flip: true, crop_padding: 4}
model: {name: resnet, width: 64, pretrained: false, dropout: 0.0}
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
LABELS_BY_CYCLE = {
    "cifar10": [5000, 7500, 10000, 12500, 15000, 17500, 20000],
    "cifar100": [5000, 7500, 10000, 12500, 15000, 17500, 20000],
    "svhn": [7324, 10986, 14648, 18310, 21972, 25634, 29296],
    "caltech101": [868, 1302, 1736, 2170, 2604, 3038, 3472],
    "digits": [100, 150, 200, 250, 300, 350, 400],
    "image_folder": [1000, 1500, 2000, 2500, 3000],
}
SMALL_NETWORK = "cifar10_small_network"
DIGITS = configuration.load("digits").as_dict()
KEYS = sorted(f"{s}.{k}" for s, v in DIGITS.items() if isinstance(v, dict) for k in v)


def flat(config: Config) -> dict:
    """Every value under its dotted key."""
    return dotted(config.as_dict())


def problems_of(*arguments) -> list[str]:
    with pytest.raises(InputError) as refusal:
        configuration.load(*arguments)
    return str(refusal.value).splitlines()


def test_every_shipped_configuration_is_expected_here():
    assert configuration.config_names() == sorted([*LABELS_BY_CYCLE, SMALL_NETWORK, OWN_IMAGES])
    assert {*LABELS_BY_CYCLE, OWN_IMAGES} == set(DATASETS)


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


def test_training_sets_have_the_papers_sizes():
    published = {"cifar10": 50_000, "cifar100": 50_000, "svhn": 73_257, "caltech101": 7_766}
    assert {name: TRAINING_SET_SIZES[name] for name in published} == published


@pytest.mark.parametrize("name", LABELS_BY_CYCLE)
def test_each_cycle_has_its_number_of_labels(name):
    active = configuration.load(name).active_learning
    labels = [active.initial_labels + c * active.query_size for c in range(active.cycles)]
    assert labels == LABELS_BY_CYCLE[name]


@pytest.mark.parametrize("name", DATASETS)
def test_shipped_file_shows_every_value_that_matters(name):
    shown = yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text(encoding="utf-8"))
    resolved = configuration.load(name).as_dict()
    hidden = {"dropout", "fresh_weights", "initial", "imbalance", "audit_share", "test_share"}
    hidden -= {"image_folder": {"test_share"}, OWN_IMAGES: {"audit_share"}}.get(name, set())
    if name not in FILE_DATASETS:
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
    settings = {**DIGITS, "run": {"seed": 3, "entry": "main_TOD.py"}}
    path = write(tmp_path / "config.yaml", settings)
    assert configuration.load(path).as_dict() == DIGITS
    assert configuration.read_run(tmp_path, "") == settings


def test_configuration_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        configuration.load("digits").training.lr = 1.0


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        *(("training.lr", *each) for each in (("1", 1.0), ("5.0e-3", 0.005), (".5", 0.5))),
        *(("training.lr", *each) for each in (("1e-4", 1e-4), ("1E5", 1e5), ("2E1", 20.0))),
        *(("training.lr", *each) for each in (("2.5e-3", 2.5e-3), ("+1.e3", 1e3))),
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
        in_file = configuration.load(str(path))
        assert flat(in_file) == {**before, key: value}


def test_data_dir_of_the_command_line_wins():
    config = configuration.load("digits", ["data_dir=a"], "b c/ö")
    assert config.data_dir == "b c/ö"


def test_a_name_is_found_from_any_folder_and_a_file_names_its_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configuration.load("digits").name == "digits"
    assert configuration.load(write(tmp_path / "my images.v2.yaml", DIGITS)).name == "my images.v2"


def write(path: Path, values: dict) -> str:
    path.write_text(as_yaml(values), encoding="utf-8")
    return str(path)


def test_all_problems_are_listed_at_once(tmp_path):
    values = copy.deepcopy(DIGITS)
    values["learning_rate"] = 1
    values["dataset"] = "mnist"
    values["training"]["lr"] = "fast"
    values["training"]["epohcs"] = values["training"].pop("epochs")
    values["images"]["mean"] = [0.5, "x", "y"]
    values["cod"] = 5
    values["ll4al"]["margin"] = math.nan
    del values["scoring"]
    path = write(tmp_path / "mine.yaml", values)
    lines = problems_of(path, ["model.width=0"])
    found = {line.split(": ")[1]: line for line in lines}
    expected = {
        "learning_rate": "unknown key; the nearest known one is",
        "dataset": "'mnist' should be 'cifar10', 'cifar100'",
        "training.lr": "'fast' should be a valid number",
        "training.epohcs": "unknown key; the nearest known one is training.epochs",
        "training.epochs": "is missing; add it",
        "images.mean": "'x' should be a valid number",
        "cod": "5 is no section",
        "ll4al.margin": "nan should be a finite number",
        "scoring": "is missing; add it",
        "model.width": "0 should be greater than or equal to 1",
    }
    assert len(lines) == len(expected)
    assert found.keys() == expected.keys()
    for key, words in expected.items():
        assert words in found[key]
        assert found[key].startswith("--set model.width=0: " if key == "model.width" else path)


def test_contradictions_are_listed_beside_wrong_values():
    lines = problems_of(
        "digits",
        ["training.lr=x", "training.milestones=[99]", "active_learning.query_size=600"],
    )
    listed = "\n".join(lines)
    assert len(lines) == 4
    for words in ("'x' should", "99 lies beyond the 15 epochs", "500 is smaller", "3700 labels"):
        assert words in listed


def test_what_a_wrong_value_contradicts_is_not_told():
    (line,) = problems_of("digits", ["training.epochs=few", "training.milestones=[99]"])
    assert "training.epochs: 'few'" in line
    (line,) = problems_of("image_folder", ["images.size=null", "images.resize=large"])
    assert "images.resize: 'large'" in line


def test_what_a_whole_section_lacks_is_the_overrides_fault():
    lines = problems_of("digits", ["cod={weight: 0.1}", "ll4al={weight: x}", "ll4al.margin=1"])
    sources = {line.split(": ")[-2]: line for line in lines}
    assert sources["cod.ema_decay"].startswith("--set cod={weight: 0.1}: ")
    assert sources["ll4al.weight"].startswith("--set ll4al={weight: x}: ")
    assert sources["ll4al.detach_epoch"].startswith("--set ll4al={weight: x}: ")
    assert len(lines) == 4


def test_texts_that_look_like_numbers_stay_texts_in_a_run_folder(tmp_path):
    run = {"class_names": ["12e4", "1e-4", ".5", "apple", "7"], "seed": 0}
    write(tmp_path / "config.yaml", {**DIGITS, "data_dir": "1e5", "run": run})
    assert configuration.read_run(tmp_path, "")["run"] == run
    assert configuration.load(str(tmp_path / "config.yaml")).data_dir == "1e5"


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
    assert [line.split(": ")[1] for line in lines] == [
        "active_learning.query_size",
        "active_learning.subset_size",
    ]
    everything = "active_learning.initial_labels=null"
    assert configuration.load("digits", [everything, "active_learning.cycles=1"])
    (line,) = problems_of("digits", [everything])
    assert "initial_labels: null is all images" in line and "cycles: 1" in line


def test_a_runs_configuration_that_cannot_be_read_gets_the_callers_advice(tmp_path):
    path = tmp_path / "config.yaml"
    for content, reason in (
        (None, "No such file"),
        (b"", "it holds no settings"),
        (b"- run", "it holds no settings"),
        (b"run: [", "it is not YAML: line 1"),
        (b"run: {seed: 1, seed: 2}", "the key seed is there twice"),
        (b"run: !!python/object/apply:os.getcwd []", "it is not YAML"),
        (b"dataset: digits", "it has no section run"),
        (b"run: 3", "it has no section run"),
        (b"\xff", "decode"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError) as refusal:
            configuration.read_run(tmp_path, "copy it back")
        message = str(refusal.value)
        assert message.startswith(f"{path}: cannot be read (") and reason in message
        assert message.endswith("; copy it back") and "\n" not in message


def test_flat_settings_have_dotted_keys_in_order():
    nested = {"a": {"b": 1, "c": {"d": [2, 3]}}, "e": None}
    assert list(dotted(nested).items()) == [("a.b", 1), ("a.c.d", [2, 3]), ("e", None)]


def assert_sound(config: Config) -> None:
    """What every accepted configuration promises to the code behind it."""
    active, training = config.active_learning, config.training
    if config.dataset == OWN_IMAGES:
        assert (active.trials, active.cycles) == (1, None)
        assert active.audit_share == 0 or active.query_size >= 2
        counts = {"cycles": 2, "initial_labels": active.initial_labels or 2}
        active = active.model_copy(update=counts)
    assert active.initial_labels or active.cycles == 1
    labels = (active.initial_labels or 2) + (active.cycles - 1) * active.query_size
    assert labels <= TRAINING_SET_SIZES.get(config.dataset, math.inf)
    # A single cycle queries nothing.
    assert active.query_size <= active.subset_size or active.cycles == 1
    assert list(training.milestones) == sorted(set(training.milestones))
    assert all(0 < milestone <= training.epochs for milestone in training.milestones)
    for key, value in flat(config).items():
        kind = type(flat(SOUND[config.dataset])[key] if key not in MAYBE_NULL else value)
        assert type(value) is kind, key
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, (int, float)):
                assert math.isfinite(number), key
    numbers = active.model_dump(exclude={"audit_share", "initial"}, exclude_none=True)
    assert min(numbers.values()) >= 1
    assert min(training.batch_size, active.initial_labels or 2) >= 2
    assert training.lr > 0 <= training.weight_decay
    assert 0 <= training.momentum < 1
    assert min(config.cod.weight, config.ll4al.weight, config.ll4al.margin) >= 0
    assert 0 <= config.cod.ema_decay <= 1
    assert min(config.ll4al.detach_epoch, config.augmentation.crop_padding) >= 0
    if config.images.std is not None:
        assert min(config.images.std) > 0


SOUND = {name: configuration.load(name) for name in configuration.config_names()}
MAYBE_NULL = {
    *("images.resize", "images.size", "images.mean", "images.std"),
    *("active_learning.initial_labels", "active_learning.imbalance"),
}


def config_or_refusal(*arguments) -> Config | None:
    """The configuration, or None; anything raised but a refusal in readable lines gets through."""
    try:
        return configuration.load(*arguments)
    except InputError as refusal:
        for line in str(refusal).split("\n"):
            assert line.isprintable()
            assert 0 < len(line) <= 400
    return None


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("configurations") / "any.yaml"


def check(path: Path, document: str) -> None:
    path.write_text(document, encoding="utf-8")
    config = config_or_refusal(str(path))
    if config is not None:
        assert_sound(config)
        assert configuration.load(write(path, config.as_dict())) == config


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
    check(path, document)


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
    check(path, yaml.safe_dump(damaged, sort_keys=False))


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
def test_no_override_can_cause_a_traceback(overrides):
    config = config_or_refusal("digits", overrides)
    if config is not None:
        assert_sound(config)


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

    write(tmp_path / "config.yaml", {**DIGITS, "run": {"seed": 3}})
    monkeypatch.setattr(configuration, "Config", WithIt)
    found = configuration.read_run(tmp_path, "")
    assert {"run": found.pop("run"), **configuration.load("digits").as_dict()} == {
        "run": {"seed": 3},
        **found,
    }
    assert found["later"] == {"weight": 0.5}

"""The loader: files, recipes, overrides, and what it says of broken ones."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ray_warmup.configs import ConfigError, load_config, parse_config
from ray_warmup.configs.loader import MAX_CONFIG_BYTES

SMALLEST = "cluster: {world_size: 2}\nmodel: {name: qwen3-0.6b}\n"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """`write(text)`: a YAML file with this text."""

    def make(text: str | bytes) -> Path:
        path = tmp_path / "warmup.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


def test_a_file_is_read(write: Any) -> None:
    """Sections and fields arrive, the others keep their defaults."""
    config = load_config(write(SMALLEST + "guard: {margin: 0.1}\n"))
    assert (config.cluster.world_size, config.guard.margin, config.guard.enabled) == (2, 0.1, True)


def test_a_recipe_is_found_by_name_and_an_unknown_one_lists_them() -> None:
    """A name without a file is looked up among the recipes; another name is refused with their list."""
    assert load_config("cpu_two_nodes").cluster.simulated_nodes == 2
    with pytest.raises(ConfigError) as caught:
        load_config("cpu_tow_nodes")
    assert "'cpu_tow_nodes' is neither a file nor a recipe" in str(caught.value)
    assert "cpu_two_nodes" in str(caught.value)


@pytest.mark.parametrize("written", ["0640", "00640", "'640'", "'0640'", '"0o640"', "0o640"])
def test_modes_are_octal_however_they_are_written(write: Any, written: str) -> None:
    """Zero or quotes, file or override: one mode, also after the JSON in which a config travels to the actors."""
    read = load_config(write(SMALLEST + f"cache: {{file_mode: {written}}}\n"))
    assert read.cache.file_mode == 0o640
    assert load_config(write(SMALLEST), [f"cache.file_mode={written}"]) == read
    assert load_config(write(read.model_dump_json())) == parse_config(read.model_dump(mode="json")) == read


@pytest.mark.parametrize("written", ["444", "640", "384", "0x180", "6:00", "0_640", "-0640", "4" * 3000])
@pytest.mark.parametrize("field", ["file_mode", "dir_mode"])
def test_a_mode_that_may_be_decimal_is_refused(write: Any, field: str, written: str) -> None:
    """A number without a leading zero is another mode in octal than in decimal: refused as it was written."""
    shown = written if len(written) <= 80 else written[:77] + "..."
    rule = "may mean octal or decimal; write it as octal with a leading zero, such as 0600"
    for text, overrides in ((f"cache: {{{field}: {written}}}\n", []), ("", [f"cache.{field}={written}"])):
        with pytest.raises(ConfigError) as caught:
            load_config(write(SMALLEST + text), overrides)
        assert str(caught.value) == f"cache.{field}: {shown}: {rule}"


@pytest.mark.parametrize(
    ("override", "where", "value"),
    [
        ("guard.margin=0.25", ("guard", "margin"), 0.25),
        ("autotune.buckets=[1, 8]", ("autotune", "buckets"), (1, 8)),
        ("autotune.skip_ops=[fp4_gemm]", ("autotune", "skip_ops"), ("fp4_gemm",)),
        ("cache.file_mode=0644", ("cache", "file_mode"), 0o644),
        ("engine.monitor=off", ("engine", "monitor"), "off"),
        ("cache.persistent=false", ("cache", "persistent"), False),
        ("cluster.address=ray://a:1=2", ("cluster", "address"), "ray://a:1=2"),
        ("cluster.address=", ("cluster", "address"), None),
        ("cluster.node_labels.zone=east", ("cluster", "node_labels"), {"zone": "east"}),
        (" timeouts.task =7", ("timeouts", "task"), 7),
    ],
)
def test_an_override_wins(write: Any, override: str, where: tuple[str, str], value: Any) -> None:
    """`section.field=value` replaces what the file says, the value read as YAML."""
    config = load_config(write(SMALLEST + "guard: {margin: 0.5}\ncache: {persistent: true}\n"), [override])
    assert getattr(getattr(config, where[0]), where[1]) == value


def test_the_last_override_wins_and_the_file_is_optional() -> None:
    """Overrides alone make a config; of two for one field the later counts."""
    config = load_config(None, ["cluster.world_size=2", "model.name=a", "model.name=b"])
    assert (config.cluster.world_size, config.model.name) == (2, "b")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("guard", "must be section.field=value"),
        ("guard=1", "must be section.field=value"),
        ("guard.=1", "must be section.field=value"),
        (".margin=1", "must be section.field=value"),
        ("guard.margin=[1", "the value is not YAML"),
        ("guard.margin={a: 1, a: 2}", "'a' is given twice"),
        ("guard.margin=2", "guard.margin: 2: "),
        ("guard.margni=0.1", "guard.margni: 0.1: unknown field"),
        ("cluster.world_size.x=1", "world_size is not a mapping"),
    ],
)
def test_a_wrong_override_is_refused(write: Any, override: str, words: str) -> None:
    """A malformed override is quoted, a wrong value is named like one from a file."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(SMALLEST), [override])
    assert words in str(caught.value)


def test_an_override_into_a_broken_section_is_refused(write: Any) -> None:
    """A section that is no mapping in the file is named, not crashed upon."""
    with pytest.raises(ConfigError, match="guard: must be a mapping of fields, not 3"):
        load_config(write(SMALLEST + "guard: 3\n"), ["guard.margin=0.1"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "must hold a mapping of sections, not [1, 2]"),
        ("# nothing yet\n", "is empty: cluster and model are required"),
        ("cluster: {world_size: 2", "is not YAML: expected ',' or '}', but got '<stream end>' (line 1, column 24)"),
        ("cluster:\n\tworld_size: 2", "found character '\\t' that cannot start any token (line 2, column 1)"),
        ("cluster: {world_size: 2}", "model: missing"),
        ("cluster: &a [*a]", "anchors and aliases are not read"),
        (SMALLEST + "guard: {margin: 0.1}\nguard: {margin: 0.2}\n", "'guard' is given twice (line 4)"),
        (SMALLEST + "guard: {margin: 0.1, margin: 0.2}\n", "'margin' is given twice (line 3)"),
        (SMALLEST + "guard: !!python/object/apply:os.getcwd []\n", "is not YAML"),
        (SMALLEST + "1: 2\n", "1: "),
        (SMALLEST + "guard: null\n", "guard: None: must be a mapping of fields"),
        (SMALLEST + "autotune: {buckets: 8}\n", "autotune.buckets: 8: must be a list"),
        ("a: " + "[" * 5000, "is not YAML"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"a: " + b"x" * MAX_CONFIG_BYTES, f"more than the {MAX_CONFIG_BYTES} bytes that are read"),
    ],
)
def test_a_broken_file_is_refused(write: Any, text: str | bytes, words: str) -> None:
    """Whatever is in the file, the refusal is a ConfigError that says what is wrong."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(text))
    assert words in str(caught.value)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "anchors and aliases are not read (line 1)"),
        ("guard: &g {margin: 0.1}\n", "anchors and aliases are not read (line 1)"),
        ("<<: *base\n", "anchors and aliases are not read (line 1)"),
        ("cluster: !!map {}\n", "tags such as 'tag:yaml.org,2002:map' are not read"),
        ("cluster: !!int ''\n", "tags such as"),
        ("a: " + "[" * 60_000, "brackets are nested deeper than 16"),
        ("a: " + "{a: " * 10_000, "brackets are nested deeper than 16"),
        ("- " * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "is not YAML"),
        ("a: 0x_\n", "is not YAML"),
        ('? "' + "k" * 9000 + '"\n: 1\n', "kkk...: 1: unknown field"),
        ("[a]: b\n", "is not YAML"),
        ("".join(f"k{i}: {i}\n" for i in range(500)), " more"),
        ("a: [" + "1," * 1000 + "]", "[1, 1, 1"),
    ],
)
def test_a_bomb_costs_little_and_is_refused(write: Any, text: str, words: str) -> None:
    """What would grow, repeat or nest without end is refused in few words and at once, as a file and as an override."""
    began = time.process_time()
    for path, overrides in ((write(text), []), (None, [f"guard.margin={text}"])):
        with pytest.raises(ConfigError) as caught:
            load_config(path, overrides)
        assert path is None or words in str(caught.value)
        assert len(str(caught.value)) < 4000
    assert time.process_time() - began < 2.0


def test_a_billion_laughs_need_no_memory(write: Any) -> None:
    """A kilobyte that stands for 9 to the 20th values is refused within a megabyte."""
    path = write(LAUGHS)
    tracemalloc.start()
    with pytest.raises(ConfigError, match="anchors"):
        load_config(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_dates_stay_text(write: Any) -> None:
    """A label that YAML 1.1 takes for a date is the text that was written, and an impossible date is no error."""
    labels = load_config(write(SMALLEST), ["cluster.node_labels={built: 2026-02-30}"]).cluster.node_labels
    assert labels == {"built": "2026-02-30"}


def test_a_directory_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    """A path that holds no file is refused by name."""
    for path in (
        tmp_path,
        tmp_path / "absent.yaml",
        "a\x00b",
        "~nobody-here/c.yaml",
        "x" * 5000,
        "\ud800",
        "../cpu_two",
    ):
        with pytest.raises(ConfigError, match="is neither a file nor a recipe"):
            load_config(path)


names = st.text("abcdefghij-_/.", min_size=1, max_size=12)
modes = st.integers(0o400, 0o777).map(lambda mode: mode & ~0o002)
configs = st.fixed_dictionaries(
    {
        "cluster": st.one_of(
            st.fixed_dictionaries({"world_size": st.integers(1, 64)}, optional={"address": names}),
            st.fixed_dictionaries({"ranks_per_node": st.integers(1, 8)}, optional={"num_nodes": st.integers(1, 8)}),
        ),
        "model": st.fixed_dictionaries({"name": names}, optional={"quantization": st.sampled_from(("none", "fp8"))}),
    },
    optional={
        "autotune": st.fixed_dictionaries(
            {},
            optional={
                "optimization_level": st.sampled_from(("O0", "O1", "O2", "O3")),
                "enabled": st.none() | st.booleans(),
                "buckets": st.none() | st.lists(st.integers(1, 8192), max_size=4),
                "skip_ops": st.lists(names, max_size=3),
                "tie_band": st.floats(0, 0.99),
            },
        ),
        "cache": st.fixed_dictionaries(
            {},
            optional={"root": st.none() | names.map("/{}".format), "file_mode": modes, "persistent": st.booleans()},
        ),
        "timeouts": st.fixed_dictionaries({}, optional={"task": st.floats(0.001, 600_000)}),
    },
)


@given(configs)
def test_a_config_survives_the_way_to_another_process(data: dict[str, Any]) -> None:
    """JSON values of a config, also written as YAML, give the same config again."""
    config = parse_config(data)
    values = config.model_dump(mode="json")
    assert parse_config(values) == config
    assert parse_config(yaml.safe_load(yaml.safe_dump(values))) == config

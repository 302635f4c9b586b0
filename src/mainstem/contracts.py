"""The words every other module speaks: values between the parts, and the contracts of plug-ins. No heavy import.

Arrays are numpy; a *row* is one line of a batch, an *example* is what gets one prediction (one example may own many rows).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from mainstem.errors import MainstemError

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Json = Any
Value = Any  # one typed value of a modality; None is missing
ABSENT: Any = object()  # a request's row has no such key: an error of that row, where None is a missing value
Meta = Mapping[str, Any]

# --- graphs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Port:
    """One input or output of a graph. `axes` has one word a dimension, and is all that exporter, scheduler and seal read:

    "row"       batchable: calls of different requests are joined along it
    "row>row"   batchable, and the values are row numbers (a beam index): shifted when calls are joined
    "pad:NAME"  a length; joined calls are padded with `pad` to the longest. Equal NAMEs have equal lengths within a call
    "pad:A+B"   of an output: what stood along A, and behind it what stood along B (a cache that has grown)
    "own"       a number of items that differs by row (boxes). An output "owner" (int64, axes ("own",)) says whose they are
    "shared"    the same for every row (context rows, an item table): calls are joined only where it is the same array
    "384"       a fixed size
    An optional input may be left out of a call: the runtime hands in length 0 along "pad" axes, zeros elsewhere.
    """

    name: str
    dtype: str
    axes: tuple[str, ...]
    pad: float = 0
    optional: bool = False


@dataclass(frozen=True)
class GraphSpec:
    """A graph before it is written: a torch module that maps a dict of tensors to a dict of tensors, or finished ONNX.

    `inputs` and `outputs` name and shape both sides; `weights_id` is the id of what it computes, filled in by whoever
    owns the weights ("" until then). `adapter`: the input whose low-rank adapter it runs with, "" for none; `adapter_id` that of its
    weights, which `weights_id` leaves out.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    module: Any = None
    proto: bytes = b""
    weights_id: str = ""
    adapter: str = ""
    adapter_id: str = ""


# The input of graphs that can run with adapters: which of them a row takes, 0 for none. The runtime adds it, a file has no such input.
ADAPTER = Port("adapter", "int64", ("row",), optional=True)


class Kept:
    """Outputs that stayed in the runtime (features, a KV cache). Immutable; `take(rows)` selects and repeats rows."""

    __slots__ = ("arrays", "ports")

    def __init__(self, arrays: Arrays, ports: Mapping[str, Port]) -> None:
        self.arrays, self.ports = dict(arrays), dict(ports)

    def take(self, rows: Array) -> Kept:
        """The same cache for `rows` (int [n]): row i of the result is row rows[i] of this one."""
        picked = {
            name: np.take(array, rows, axis=self.ports[name].axes.index("row")) if "row" in self.ports[name].axes else array
            for name, array in self.arrays.items()
        }
        return Kept(picked, self.ports)


@dataclass(frozen=True)
class Call:
    """What a task asks of a runtime: run `graph` on `inputs`, answer the `outputs` (empty: all), hold back `keep`.

    A keep NAME stands for the output NAME and all outputs "NAME.*"; they come back as one `Kept` under NAME, which goes
    back in as the input NAME of a later call.
    """

    graph: str
    inputs: Mapping[str, Array | Kept]
    outputs: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    adapter: str = ""


@dataclass(frozen=True)
class Emit:
    """A partial answer of one example, for streaming."""

    example: int
    value: Json


# --- data between the stages ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Raw cells as a source holds them (CSV: strings; Parquet, frames and JSON: typed), before `Schema.parse`.

    `numbers` are the row numbers that messages name (CSV: the line in the file); `base` is where relative picture paths
    start; `notes` say what was detected (encoding, delimiter).
    """

    columns: Mapping[str, Sequence[Any]]
    where: str = ""
    numbers: Sequence[int] = ()
    base: Path | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def place(self, index: int, column: str = "") -> str:
        """Where cell (index, column) stands, for a message: "reviews.csv:17 column 'price'"."""
        number = self.numbers[index] if len(self.numbers) else index + 1
        row = f"{self.where}:{number}" if self.where else f"row {number}"
        return f"{row} column '{column}'" if column else row

    def take(self, rows: Sequence[int] | Array) -> Rows:
        """These rows only, in the order given."""
        columns = {name: [cells[int(i)] for i in rows] for name, cells in self.columns.items()}
        numbers = [self.numbers[int(i)] for i in rows] if len(self.numbers) else [int(i) + 1 for i in rows]
        return replace(self, columns=columns, numbers=numbers)


@dataclass(frozen=True)
class Table:
    """Typed values by input column, after `Schema.parse`, and typed answers where they were asked for. Missing is None.

    `hashes`: one a row over its input values, so that equal rows have equal hashes whatever format they came in.
    `source`: for each row its index in the `Rows` it was parsed from (rows that did not parse are not here).
    """

    columns: Mapping[str, Sequence[Value]]
    target: Sequence[Value] | None = None
    hashes: Sequence[str] = ()
    source: Sequence[int] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), self.target or ()))

    def take(self, rows: Sequence[int] | Array) -> Table:
        """These rows only, in the order given."""

        def pick(cells: Sequence[Any]) -> list[Any]:
            return [cells[int(i)] for i in rows] if len(cells) else []

        target = None if self.target is None else pick(self.target)
        return Table({name: pick(cells) for name, cells in self.columns.items()}, target, pick(self.hashes), pick(self.source))


@dataclass(frozen=True)
class State:
    """What `fit` learned: JSON, named arrays, and files kept byte for byte (a tokenizer)."""

    json: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """What gets one prediction: typed values by column, and which rows of the table they came from.

    `answer`: the typed answer while training, so that a task can encode (and augment) both together; None where none is known.
    """

    values: Mapping[str, Value]
    source: tuple[int, ...] = ()
    answer: Value = None


@dataclass(frozen=True)
class Batch:
    """Encoded examples. `inputs`: input name → arrays; `owner` [rows]: the example that each row belongs to.

    `backbones` lists the inputs that pass through a backbone before the head; the others go to the head as they are
    (a predictor reads encoded columns). `target`: encoded answers, where the examples have some, rows first. `weights`
    [examples]: of the loss.
    """

    inputs: Mapping[str, Arrays]
    owner: Array
    examples: int
    backbones: tuple[str, ...] = ()
    target: Arrays = field(default_factory=dict)
    weights: Array | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def by_backbone(self) -> Iterator[tuple[str, Arrays]]:
        """Each input that has a backbone, with its arrays."""
        return ((name, self.inputs[name]) for name in self.backbones)

    def direct(self) -> dict[str, Array]:
        """The arrays of inputs without a backbone, named INPUT.array, as the head takes them."""
        return {f"{name}.{key}": a for name, arrays in self.inputs.items() if name not in self.backbones for key, a in arrays.items()}


@dataclass(frozen=True)
class Prediction:
    """One answer. `value`: a label, a number, a list of labels, …; `score`: of that value; `scores`: by label."""

    value: Json
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    margin: float = float("inf")  # how far outputs of calls may move before the answer is another one


# --- descriptions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feature:
    """One output of a backbone: its width, its axes, and how many input steps one step along a "pad" axis covers."""

    width: int
    axes: tuple[str, ...] = ("row",)  # all but the last, which is the width
    stride: int = 1


@dataclass(frozen=True)
class Ref:
    """A backbone as it was asked for. `family` is the plug-in, `variant` what follows it ("18" of resnet18, the folder of hf:FOLDER).

    `state` is the fitted state of the input's processor (column counts, vocabulary size): a network built for data needs
    it. `folder`: where weights lie, once there are some; None builds random weights (or fetches the pretrained ones).
    """

    text: str
    family: str
    variant: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    state: State = field(default_factory=State)
    folder: Path | None = None


@dataclass(frozen=True)
class Info:
    """What a backbone or predictor is. `inputs`: ports of its graph; `processor`: settings of the input's modality encoder."""

    modality: str  # "table", "text", "image"
    inputs: tuple[Port, ...] = ()
    features: Mapping[str, Feature] = field(default_factory=dict)
    pooled: str = ""  # the feature that heads take by default
    processor: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    licence: str = ""
    extra: str = ""  # the extra that it needs to train
    slots: tuple[str, ...] = ()  # names of the linear layers that LoRA wraps by default
    pretrained: bool = False
    holds_rows: bool = False  # a model fitted with it holds training rows
    summary: str = ""


@dataclass(frozen=True)
class Params:
    """The parameters of one optimiser: (name, tensor) pairs."""

    named: Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Route:
    """A task's own HTTP route: under its model's address, handler(request, model) → response; with `common` at `path` itself, once
    for all models whose task brings it, handler(request, models by name). The server knows no task by name.

    described: from the names of the models that bring it to the route's operation in OpenAPI 3.1.
    """

    path: str
    methods: tuple[str, ...]
    handler: Any
    common: bool = False
    described: Callable[[Sequence[str]], Json] | None = None


# --- plug-ins ---------------------------------------------------------------------------------------------------------


class Modality(Protocol):
    """A kind of value: parse raw → typed, fit, encode typed ⇄ arrays, render. numpy only; one code for training and serving.

    Members of the plug-in that are optional: `edges(settings, state) -> list of raw cells`: made cells that reach the corners of parse and
    encode (spellings of a missing value, an unseen category), which a replay carries beside the held-out rows. `fit_only`:
    names of settings that only `fit` reads (a path, say), and that a model therefore does not keep. `beside(answer, inputs) -> Value`:
    for answers that are read beside the inputs of their row. `computed`: names of arrays that come of linear algebra, whose last digits
    differ from processor to processor: a seal compares them as it does calls.

    A module whose values are spread over many rows of the data also has `gather(rows, name, settings, targets, answered=…) -> Rows`, which
    makes one row of them, and `parts(settings)`, (name, kind) of each column that it reads.
    """

    def parse(self, raw: Any, settings: Mapping[str, Any]) -> Value:
        """One raw cell → a typed value, None where it is missing. Raises MainstemError with `what` and `do` (schema.py adds where)."""

    def fit(self, settings: Mapping[str, Any], values: Sequence[Value]) -> State:
        """What encoding learns from the training values alone."""

    def encode(
        self, values: Sequence[Value], settings: Mapping[str, Any], state: State, rng: np.random.Generator | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Typed values → arrays with one row a value. `rng` is handed in while training only: augment, if settings say so."""

    def decode(self, arrays: Arrays, meta: Meta, settings: Mapping[str, Any], state: State) -> list[Value]:
        """Arrays → typed values, for modalities that can be answers."""

    def render(self, value: Value, accept: str = "application/json") -> Json | tuple[str, bytes]:
        """A typed value → JSON, or (media type, bytes)."""


class Backbone(Protocol):
    """A family of networks that turn one input into features. torch is imported inside build, forward and save."""

    def describe(self, ref: Ref) -> Info:
        """What it is, without building it (and without importing torch)."""

    def build(self, ref: Ref) -> Any:
        """The family's OWN nn.Module, weights loaded from ref.folder where there is one."""

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors named like Info.inputs → tensors named like Info.features. Traceable: no branch on values."""

    def save(self, module: Any, ref: Ref) -> dict[str, bytes | Path]:
        """Files of the family's public format by name; a Path is linked instead of written (weights nobody changed)."""


class Predictor(Protocol):
    """Answers directly and is fitted without gradients. Takes one input, the `table` or another; no torch."""

    def describe(self, ref: Ref) -> Info:
        """What it is, without fitting it."""

    def fit(
        self, arrays: Arrays, target: Arrays, kinds: Mapping[str, Any], weights: Array | None, settings: Mapping[str, Any], seed: int
    ) -> State:
        """Arrays of the table input (see modalities/table.py), the encoded target, `kinds` → fitted state.

        kinds: "task", "outputs" (how many), "categories" (ids of each category column), and "groups" (int64 [n]) where rows
        of one group must stay together in whatever the predictor compares inside, "times" (float64 [n]) where held-out rows
        must come after the others. For an input that is no table: "input" (its fitted state) and "settings" (of the task).
        """

    def run(self, state: State, arrays: Arrays) -> Arrays:
        """The library's own answer, named as the graph names it: what the graph is replayed against."""

    def graphs(self, state: State) -> dict[str, GraphSpec]:
        """{"head": …}: ONNX whose inputs are named INPUT.array ("table.numbers") and whose outputs are the task's."""


class Runner(Protocol):
    """Runs graph calls: on PyTorch while training, on ONNX Runtime in a shipped model, through the scheduler in a server."""

    def __call__(self, call: Call) -> dict[str, Array | Kept]:
        """The outputs that the call wants by name, and what it keeps as a Kept."""


class Metric(Protocol):
    """One figure of quality, kept by example so that bootstrap intervals are cheap."""

    def rows(self, predictions: Sequence[Prediction], targets: Sequence[Value]) -> Array:
        """Statistics by example, float64 [n, k]."""

    def reduce(self, stats: Array) -> float:
        """The figure from the statistics of some (resampled) examples."""


class Task:
    """What comes out. Three methods (`head`, `loss`, `decode`) make a single-pass task; the rest are defaults made of them.

    A task is built from its settings and holds nothing else; what it learns without gradients is its State.

    Members that are optional: `judge(batch, state, rngs)`, what evaluation runs in place of `predict` where a task is measured by how
    likely given answers are. `lines(rendered) -> rows`, where a prediction is more than one row of a table (a forecast of steps).
    """

    inputs: ClassVar[Mapping[str, str] | None] = None  # role → modality where roles matter; None: any columns
    target: ClassVar[str | None] = None  # modality of the answer; None: nothing to predict from
    judged_by: ClassVar[str | None] = None  # where nothing is learned from an answer: the modality of labels that may judge it
    continues: ClassVar[bool] = False  # the answer goes on where the one input ends: encoded alike, and its column may be missing
    adapt: ClassVar[str] = ""  # how a pretrained backbone is adapted where nothing is asked for; "": as the plan has it
    # For the default plan, by input name (a role, "table", "text", …) or modality: the backbone that reads it ("" none: its
    # arrays go to the task as they are), and the settings of its encoder (those of the answers under "target").
    backbones: ClassVar[Mapping[str, str]] = {}
    processors: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    metrics: ClassVar[tuple[str, ...]] = ()
    # The figure that candidates are compared by, a metric or "loss" (of the validation part); 1: higher is better, -1: lower.
    compared_by: ClassVar[tuple[str, int]] = ("loss", -1)
    options: ClassVar[Mapping[str, Any]] = {}  # what a request may set, with defaults
    replayed: ClassVar[Mapping[str, Any]] = {}  # those that golden rows are answered with, over the defaults
    routes: ClassVar[tuple[Route, ...]] = ()
    tolerance: ClassVar[float] = 0.0  # of `differ`
    batch_coupled: ClassVar[bool] = False  # a loss over the whole batch: never split it

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        self.settings: dict[str, Any] = dict(settings or {})

    # the short way
    def head(self, features: Mapping[str, Feature], target: State) -> Any:
        """The network on top: an nn.Module from {"INPUT.feature": tensor} to {output: tensor}.

        `features`: those of the backbones, and the arrays of inputs without one ("INPUT.array").
        """
        raise TypeError(f"{type(self).__name__} has no head")

    def loss(self, output: Mapping[str, Any], batch: Any) -> Any:
        """The scalar loss of a batch of tensors (batch.target, batch.weights)."""
        raise TypeError(f"{type(self).__name__} has no loss")

    def decode(self, output: Arrays, batch: Batch, state: State) -> list[Prediction | MainstemError]:
        """Arrays of the last call → one prediction an example."""
        raise TypeError(f"{type(self).__name__} has no decode")

    # the long way
    def examples(self, table: Table) -> list[Example]:
        """What gets one prediction each. Default: a row, with its answer where the table has answers."""
        names, answers = list(table.columns), table.target or [None] * len(table)
        rows = zip(zip(*table.columns.values(), strict=True), answers, strict=True)
        return [Example(dict(zip(names, cells, strict=True)), (i,), answer) for i, (cells, answer) in enumerate(rows)]

    def encode(self, examples: Sequence[Example], processors: Any, rng: np.random.Generator | None = None) -> Batch:
        """Examples → arrays. `processors.encode(examples, rng)` encodes every input, and the answers, by their modality."""
        batch: Batch = processors.encode(examples, rng)
        return batch

    def networks(self, features: Mapping[str, Feature], target: State, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The task's own networks by graph name, beside the backbones. `settings`: of the candidate's head, over the task's own."""
        return {"head": type(self)({**self.settings, **settings}).head(features, target)}

    def parameters(self, networks: Mapping[str, Any]) -> dict[str, Params]:
        """Trainable parameters by optimiser. Default: one optimiser, "main", for all. Empty: there is no step to take."""
        named = [(f"{name}.{n}", p) for name, net in networks.items() for n, p in net.named_parameters() if p.requires_grad]
        return {"main": Params(named)} if named else {}

    def forward(self, networks: Mapping[str, Any], batch: Any) -> dict[str, Any]:
        """Backbones, then the head, on tensors: the same way that `predict` goes."""
        features = batch.direct()
        for name, arrays in batch.by_backbone():
            features.update({f"{name}.{key}": value for key, value in networks[f"backbone.{name}"](arrays).items()})
        output: dict[str, Any] = networks["head"](features)
        return output

    def step(self, networks: Mapping[str, Any], batch: Any, optimisers: Mapping[str, Any], rng: np.random.Generator) -> dict[str, float]:
        """One training step; `optimisers[NAME].step(closure)` holds NaN check, clipping and the update. Returns figures to log."""
        return {"loss": optimisers["main"].step(lambda: self.loss(self.forward(networks, batch), batch))}

    def fit_state(self, batches: Iterator[Batch], target: State, runner: Runner | None) -> State:
        """What is fitted without gradients, once the networks are trained; it becomes the model's state. Default: the target's
        state (its labels, its scale, its tokenizer).

        `batches`: all training examples in order, each once; `runner`: over the trained backbones, None where there is none.
        """
        return target

    def calibrate(self, outputs: Arrays, targets: Arrays, state: State) -> State:
        """On validation outputs: temperature, thresholds. Default: nothing."""
        return state

    def graphs(self, networks: Mapping[str, Any], specs: Mapping[str, GraphSpec], state: State) -> dict[str, GraphSpec]:
        """The graphs to ship by name. `specs`: those of the backbones and, where this is not overridden, that of "head" as one
        pass shows it (first axis "row", the others fixed). A task with other graphs, or other axes, names them here."""
        return dict(specs)

    def predict(
        self, batch: Batch, state: State, options: Mapping[str, Any], rngs: Sequence[np.random.Generator]
    ) -> Generator[Call | tuple[Call, ...] | Emit, Any, list[Prediction | MainstemError]]:
        """A numpy coroutine that yields graph calls and is sent their answers: one dict a call, a tuple of them for a tuple.

        `rngs`: one generator an example, so that answers do not depend on the batch.
        """
        features = batch.direct()
        calls = {name: Call(f"backbone.{name}", arrays) for name, arrays in batch.by_backbone()}
        if calls:
            answers = yield tuple(calls.values())
            for name, answer in zip(calls, answers, strict=True):
                features.update({f"{name}.{key}": value for key, value in answer.items()})
        output = yield Call("head", features)
        return self.decode(output, batch, state)

    def differ(self, a: Prediction, b: Prediction) -> float:
        """How far two predictions lie apart, for the seal: 0 is equal, above `tolerance` is refused.

        Default: for numbers and lists of numbers the largest relative difference; else that of the scores, and 1 where the
        values differ, unless their scores lie closer than twice the tolerance (such a pair may swap).
        """
        x, y = _numbers(a.value), _numbers(b.value)
        if x is not None and y is not None:
            return float(np.max(np.abs(x - y) / np.maximum(1.0, np.abs(x)), initial=0.0)) if x.shape == y.shape else np.inf
        scores = [abs(a.scores[k] - b.scores.get(k, np.inf)) for k in a.scores]
        size = float(max(scores, default=0.0))
        if a.value == b.value:
            return size
        near = isinstance(b.value, str) and a.score is not None and a.score - a.scores.get(b.value, -np.inf) <= 2 * self.tolerance
        return size if near else 1.0


@dataclass(frozen=True)
class Material:
    """What a pretraining run was given beside the settings of its objective.

    data: a file or a folder, "" where the objective makes its own; inputs: the columns asked for; backbone: None for the
    objective's own network; towers: backbones by modality, where one was asked for each; folder: that of the run, for what is made of
    the data; rows: of the data, at most, 0 for all; say: notes; stopped: whether to end.
    """

    data: str = ""
    inputs: tuple[str, ...] = ()
    encoding: str = ""
    backbone: Ref | None = None
    towers: Mapping[str, Ref] = field(default_factory=dict)
    folder: Path = Path()
    rows: int = 0
    say: Callable[[str], None] = lambda text: None
    stopped: Callable[[], bool] = lambda: False


class Stream(Protocol):
    """What a backbone is pretrained on, without an end.

    `rows`: how many examples a pass over it has, each of which comes once a pass; None: there are no passes, an index stands for a
    batch. `lengths`: of the examples, looked up by lengths[indices]; None where they are of one length.
    """

    rows: int | None
    lengths: Any

    def __len__(self) -> int:
        """Batches between two looks at held-out data; of held-out data itself its examples."""

    def take(self, indices: Array, rng: np.random.Generator | None = None) -> Batch:
        """The examples at `indices`, with random parts of the numbers of `rng` alone; without `rng` always the same."""


class Objective(Task):
    """What a backbone is pretrained for: a task whose artifact is the backbone. It has `networks`, `forward` and `loss`, and these."""

    reads: ClassVar[str] = ""  # what DATA holds, in a word or two; "" makes its own
    in_parts: ClassVar[bool] = False  # where `batch_coupled`: whether it computes features in batch.meta["parts"] parts by itself
    taken: float = 1.0  # the share of the rows of DATA that `open` took up, where it was told to take but the first (Material.rows)

    @classmethod
    def training(cls, *, pretrained: bool) -> Mapping[str, Any]:
        """Fields of the training that suits it, from scratch or going on from weights; those that are asked for win."""
        return {}

    def open(self, material: Material) -> None:
        """Take up what the run was given, before anything else is asked of it. Raises MainstemError where that does not fit."""

    def stream(self, length: int) -> Stream:
        """What is learned from; `length`: batches between two looks at held-out data."""
        raise TypeError(f"{type(self).__name__} has no stream")

    def held_out(self) -> Stream:
        """What is only looked at."""
        raise TypeError(f"{type(self).__name__} has nothing held out")

    def size(self, batch: Any) -> float:
        """What the loss of a batch is a mean over: parts of a batch are joined by it. Default: its examples."""
        return float(batch.examples)

    def measure(self, output: Mapping[str, Any], batch: Any) -> dict[str, float]:
        """Figures of a held-out batch beside its loss, each a mean over its examples."""
        return {}

    def figures(self, loss: float) -> dict[str, float]:
        """What a held-out loss means, by name: perplexity, bits per byte, …"""
        return {}

    def artifact(self, networks: Mapping[str, Any]) -> dict[str, bytes]:
        """The files of the backbone by name, in its family's public format."""
        raise TypeError(f"{type(self).__name__} makes no backbone")


def _numbers(value: Value) -> Array | None:
    """A number, or nested lists of numbers, as an array; None for any other value."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        return None
    return array.astype(np.float64) if array.size and array.dtype.kind in "iuf" else None

"""Row 22: data never becomes code. Hostile artifacts through every load path, watched by an audit hook in a process of its own."""

import asyncio
import json
import os
import pickle
import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import trials
from onnx import TensorProto, helper

import mainstem
import mainstem as ms
from mainstem import registry, seal
from mainstem.contracts import Rows
from mainstem.errors import MainstemError
from mainstem.serve.models import Models
from mainstem.testing.faults import relist, trial

PROMISE = "hostile artifacts are refused in a sentence or are harmless: nothing they bring is imported or run, no file elsewhere is opened"

# --- the watch --------------------------------------------------------------------------------------------------------

NEVER = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pickle.find_class", "pty.spawn")
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request", "ftplib.connect")
LIBRARIES = tuple(
    {str(Path(p).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib") for p in [sysconfig.get_paths()[name]]}
    | {str(Path(sys.base_prefix).resolve()), str(Path(mainstem.__file__).parent), str(Path(__file__).parent)}
)
SYSTEM = (
    "/proc/",
    "/sys/",
    "/dev/",
    "/usr/share/",
    "/usr/lib",
    "/lib",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/ld.so",
)
FREE = ("settings", "schema", "inputs", "target", "state", "graphs")
FREE += ("schema.columns", "schema.targets", "inputs.0.processor", "inputs.0.state.json", "state.json")
SIGN = "what no data may do:"
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def watched(action, inside):
    """Run `action`; raise AssertionError where it opened a file outside `inside`, ran a program, spoke to the network, or imported."""
    inside, seen, busy = str(inside.resolve()), [], []
    cache = str(Path.home() / ".cache")

    def hook(event, arguments):
        if busy:
            return
        busy.append(event)
        try:
            if event in NEVER or event in NETWORK:
                seen.append(f"{event} {arguments!r}"[:300])
            elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
                path, _, flags = arguments
                path = os.path.realpath(os.fsdecode(path))
                if path.startswith(inside + os.sep) or path == inside or path == os.devnull:
                    return
                if (flags or 0) & WRITES and not path.startswith(cache):
                    seen.append(f"written: {path}")
                elif not path.startswith((*LIBRARIES, *SYSTEM, cache)):
                    seen.append(f"read: {path}")
        finally:
            busy.clear()

    before = set(sys.modules)
    sys.addaudithook(hook)
    try:
        action()
    finally:
        strangers = [
            n for n in set(sys.modules) - before if not str(getattr(sys.modules[n], "__file__", None) or LIBRARIES[0]).startswith(LIBRARIES)
        ]
        assert not seen, f"{SIGN} {seen[:5]}"
        assert not strangers, f"{SIGN} imported: {strangers}"


# --- what hostile files hold ------------------------------------------------------------------------------------------


class Bait:
    """Unpickled, it makes a file: the sign that data became code."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def payloads(canary, work):
    """Contents for any file, by name."""
    bait = pickle.dumps(Bait(canary))
    archive = work / "archive.pt"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("archive/data.pkl", bait)
        made.writestr("archive/version", "3")
    objects = work / "objects.npy"
    np.save(objects, np.array([Bait(canary)], dtype=object), allow_pickle=True)
    huge = (10**15).to_bytes(8, "little") + b"{}"
    return {
        "pickle": bait,
        "torch": archive.read_bytes(),
        "numpy": objects.read_bytes(),
        "yaml": f"!!python/object/apply:os.mkdir ['{canary}']\n".encode(),
        "script": f"import os; os.mkdir({str(canary)!r})\n".encode(),
        "deep": b"[" * 100_000,
        "numbers": json.dumps({"format": 1, "task": 1e308, "files": [1], "graphs": -1}).encode(),
        "null": b"null",
        "header": huge,
        "polyglot": safetensors.numpy.save({"w": np.zeros(1, np.float32)}, {"auto_map": "x"}) + bait,
        "nothing": b"",
    }


def outside_graph(location):
    """A graph whose weights lie elsewhere."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    node = helper.make_node("Add", ["x", "w"], ["y"])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    return helper.make_model(helper.make_graph([node], "g", value[:1], value[1:], [tensor])).SerializeToString()


def custom_graph(domain):
    node = helper.make_node("Run", ["x"], ["y"], domain=domain)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)]
    return helper.make_model(helper.make_graph([node], "g", value[:1], value[1:]), opset_imports=imports).SerializeToString()


LEADING = ("../../secret", "/etc/hostname", "a/../../secret", "..\\secret", "x\0y", "", "~/secret", "%2e%2e/secret")
NAMES = ("os", "mainstem.cli", "../../evil", "evil", "subprocess", "__init__", "_own", "..evil", "evil:evil", "hf:../../evil")


def put(tree, path, value):
    """The JSON with `value` at "a.0.b" set in a copy of it."""
    copied = json.loads(json.dumps(tree))
    at = copied
    *parents, last = path.split(".")
    for key in parents:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[int(last) if isinstance(at, list) else last] = value
    return copied


def model_cases(model, contents, canary, work):
    """(name, function that alters a copy of the model folder) for the whole-folder paths: load, predict, verify, serve."""
    for place in sorted(p.relative_to(model).as_posix() for p in model.rglob("*") if p.is_file() and p.name != "MANIFEST.json"):
        for kind, data in payloads(canary, work).items():
            yield f"{place} is {kind}", lambda f, place=place, data=data: (f / place).write_bytes(data)

    def told(path, value):
        return lambda f: (f / "mainstem.json").write_text(json.dumps(put(contents, path, value)), encoding="utf-8")

    for name in LEADING:
        yield f"input name {name!r}", told("inputs.0.name", name)
        yield f"graph name {name!r}", lambda f, name=name: told("graphs", {name: contents["graphs"]["head"]})(f)
        for state in ("target", "state", "inputs.0.state"):
            yield f"file of {state} at {name!r}", told(f"{state}.files", {"tokenizer.json": name})
        yield f"processor file {name!r}", told("inputs.0.processor.file", name)
        yield f"backbone {name!r}", told("inputs.0.backbone", name)
    for name in NAMES:
        for field in ("task", "inputs.0.modality", "schema.columns.0.kind", "predictor", "inputs.0.backbone"):
            yield f"{field} {name}", told(field, name)
    for field in FREE:
        for value in (None, [], {}, "text", 1, {"__class__": "os.system"}, {"_target_": "os.mkdir", "args": [str(canary)]}):
            yield f"{field} is {value!r}", told(field, value)
    graph = next(iter(contents["graphs"]))
    for location in ("../../secret", "/etc/hostname", "w.bin"):
        yield (
            f"external data at {location}",
            lambda f, location=location: (f / "onnx" / f"{graph}.onnx").write_bytes(outside_graph(location)),
        )
    for domain in ("ai.onnx.contrib", "evil", "com.microsoft.extensions"):
        yield f"operator of {domain}", lambda f, domain=domain: (f / "onnx" / f"{graph}.onnx").write_bytes(custom_graph(domain))
    script = payloads(canary, work)["script"]
    for name in (
        "__init__.py",
        "sitecustomize.py",
        "numpy.py",
        "evil.py",
        "mainstem/__init__.py",
        "modeling.py",
        "evil.pth",
        "conftest.py",
    ):
        yield f"brings {name}", lambda f, name=name: ((f / name).parent.mkdir(exist_ok=True), (f / name).write_bytes(script))
    for place in ("state.safetensors", f"onnx/{graph}.onnx", "replay", "onnx", "mainstem.json", "MANIFEST.json"):
        yield f"{place} is a link", lambda f, place=place: link_away(f, place)


def link_away(folder, place):
    """A file or folder gives way to a link to the same elsewhere."""
    elsewhere = folder.parent.parent / "elsewhere"
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    shutil.move(folder / place, elsewhere / "it")
    (folder / place).symlink_to(elsewhere / "it")


def use(model, rows):
    """Every way a model folder is taken up."""

    def one(path):
        try:
            path()
        except MainstemError as error:
            return error
        return None

    def load():
        ms.load(model).predict(rows)

    async def serve():
        failed = []
        models = Models({"m": model})
        async with models.running(failed.append):
            await asyncio.to_thread(models.done.wait)
            if failed:  # the server answers 503 for a model whose replay failed
                raise failed[0]
            await models.find("m").answer(None, Rows({name: [row[name] for row in rows] for name in rows[0]}), {})

    refused = [one(load), one(lambda: seal.verify(model)), one(lambda: asyncio.run(serve()))]
    if any(refused):
        raise next(error for error in refused if error)


# --- backbones that are brought ---------------------------------------------------------------------------------------


def write_hf(folder):
    """A tiny text encoder as the hub keeps it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_position_embeddings=16
    )
    BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "good": 4, "bad": 5}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_timm(folder):
    """A tiny picture network as timm keeps it."""
    import timm
    from safetensors.torch import save_file

    module = timm.create_model("test_resnet", num_classes=0)
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 0, "classifier": "head.fc"}
    folder.mkdir()
    save_file(module.state_dict(), folder / "model.safetensors", {"format": "pt"})
    config = {"architecture": "test_resnet", "num_classes": 0, "num_features": module.num_features, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def backbone_cases(folder, family, canary, work):
    """(name, function that alters a copy of the backbone's folder)."""
    config = json.loads((folder / "config.json").read_bytes())
    made = payloads(canary, work)
    for place in sorted(p.name for p in folder.iterdir()):
        for kind, data in made.items():
            yield f"{family} {place} is {kind}", lambda f, place=place, data=data: (f / place).write_bytes(data)

    def told(**more):
        def alter(f):
            for name in ("evil.py", "modeling_evil.py", "configuration_evil.py"):
                (f / name).write_bytes(made["script"])
            (f / "config.json").write_text(json.dumps({**config, **more}))

        return alter

    def only(name, data):
        return lambda f: ((f / "model.safetensors").unlink(), (f / name).write_bytes(data))

    for name in ("pytorch_model.bin", "model.pt", "model.pkl", "tf_model.h5", "model.ckpt.index", "flax_model.msgpack"):
        yield f"{family} only {name}", only(name, made["torch" if name.endswith(("bin", "pt")) else "pickle"])
    if family == "timm":
        for name in ("hf-hub:evil/evil", "hf_hub:evil/evil", "local-dir:evil", "../evil", "os.system", "evil"):
            yield f"architecture {name}", told(architecture=name)
        evil = str(work / "archive.pt")
        for key, value in (
            ("checkpoint_path", evil),
            ("cache_dir", "/tmp"),
            ("pretrained_cfg", {"file": evil}),
            ("scriptable", True),
            ("features_only", True),
            ("act_layer", "os.system"),
            ("norm_layer", "os.system"),
            ("block", "os.system"),
            ("pretrained_cfg_overlay", {"url": "http://127.0.0.1:9/x"}),
            ("kwargs_filter", ["x"]),
            ("pretrained", True),
            ("in_chans", "os"),
            ("strict", False),
        ):
            yield f"model_args {key}", told(model_args={key: value})
        for key, value in (
            ("file", evil),
            ("url", "http://127.0.0.1:9/x.pth"),
            ("state_dict", evil),
            ("hf_hub_id", "evil/evil"),
            ("custom_load", True),
            ("source", "hf-hub"),
        ):
            yield f"pretrained_cfg {key}", told(pretrained_cfg={**config["pretrained_cfg"], key: value})
        yield "timm custom_load with a file", told(pretrained_cfg={**config["pretrained_cfg"], "custom_load": True, "file": evil})
    else:
        for key, value in (
            ("auto_map", {"AutoModel": "modeling_evil.Evil", "AutoConfig": "configuration_evil.Evil"}),
            ("_attn_implementation_internal", "evil/evil"),
            ("attn_implementation", "evil/evil"),
            ("_attn_implementation", "evil/evil"),
            ("trust_remote_code", True),
            ("_experts_implementation", "evil"),
            ("custom_pipelines", {"x": {"impl": "modeling_evil.Evil"}}),
            ("quantization_config", {"quant_method": "evil"}),
            ("model_type", "evil"),
            ("model_type", "../evil"),
            ("model_type", ["bert"]),
            ("architectures", ["os.system"]),
            ("sub", {"auto_map": {"AutoModel": "modeling_evil.Evil"}}),
            ("hidden_act", "os.system"),
            ("_name_or_path", "/etc/hostname"),
            ("text_config", {"_attn_implementation_internal": "evil/evil"}),
            ("torch_dtype", "os.system"),
            ("transformers_weights", "../../secret"),
            ("adapter", "evil/evil"),
            ("use_kernels", True),
        ):
            yield f"{family} {key} {value}", told(**{key: value})
        yield "modules.json of a stranger", lambda f: (f / "modules.json").write_text(json.dumps([{"type": "evil.Evil", "path": "../.."}]))
        for name in ("../../secret", "/etc/hostname", "model.safetensors/../../secret"):
            index = json.dumps({"weight_map": {"w": name}})
            yield (
                f"{family} index at {name}",
                lambda f, index=index: (
                    (f / "model.safetensors").unlink(),
                    (f / "model.safetensors.index.json").write_text(index),
                ),
            )
        adapter = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/etc/hostname", "auto_mapping": {"parent_library": "evil"}})
        yield "an adapter that names another base", lambda f: (f / "adapter_config.json").write_text(adapter)
    for name in ("../evil", "os", "cli", "__init__", ["mlp"], {"a": 1}):
        yield f"{family} folder of family {name}", lambda f, name=name: (f / "config.json").write_text(json.dumps({"mainstem": name}))


def build(folder):
    """What training does with a backbone that is brought."""
    ref = registry.resolve(str(folder))
    plugin = registry.load("backbones", ref.family).plugin
    plugin.describe(ref)
    plugin.build(ref)


# --- configs, run folders, data ---------------------------------------------------------------------------------------


def config_cases(canary):
    """YAML that would be code to an unsafe loader, and names that lead elsewhere."""
    tags = (
        f"!!python/object/apply:os.mkdir ['{canary}']",
        f"!!python/object/new:os.mkdir ['{canary}']",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!!python/object:os._Environ {}",
        "!!binary x",
        "!<tag:yaml.org,2002:python/tuple> []",
    )
    for tag in tags:
        for text in (tag, f"seed: {tag}", f"data: {{path: {tag}}}", f"candidates: [{tag}]"):
            yield f"yaml {text}", text
    for name in NAMES:
        yield f"yaml task {name}", f"task: {json.dumps(name)}"
        yield f"yaml backbone {name}", f"backbones: [{json.dumps(name)}]"
        yield f"yaml kind {name}", f"data: {{columns: [{{name: a, kind: {json.dumps(name)}}}]}}"


def run_cases(run, canary, work):
    """A run folder to resume: every file of it hostile, with a manifest that says so."""
    for path in sorted(
        p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and p.name != "MANIFEST.json" and "tensorboard" not in p.parts
    ):
        for kind, data in payloads(canary, work).items():
            yield f"run {path} is {kind}", lambda f, path=path, data=data: (f / path).write_bytes(data)


def data_cases(canary, work):
    """Data files that are something else."""
    for kind, data in payloads(canary, work).items():
        for suffix in ("csv", "jsonl", "json", "parquet", "xlsx", "tsv"):
            yield f"{kind} as .{suffix}", f"data.{suffix}", data


# --- the trials -------------------------------------------------------------------------------------------------------


class Range:
    """A place to try hostile artifacts in, and the tally."""

    def __init__(self, folder, count):
        self.folder, self.count = folder, count
        self.canary = folder / "canary"
        self.work = folder / "work"
        self.work.mkdir()
        (folder / "secret").write_text("secret")
        self.made = {}

    def attempt(self, path, name, source, alter, action):
        """One hostile copy of `source` (or none) and one load path."""
        place = trials.fresh(self.folder / "range")
        place.mkdir()
        target = place / "it"
        if source is not None:
            shutil.copytree(source, target, symlinks=True)
        alter(target)
        for manifest in target.rglob("MANIFEST.json") if target.is_dir() else ():
            if not manifest.is_symlink():
                relist(manifest.parent)
        os.environ["MAINSTEM_CACHE"] = str(place / "cache")

        def child():
            os.chdir(target if target.is_dir() else place)
            watched(lambda: action(target), place)

        done = trial(child)
        clean = not self.canary.exists() and done.kind in ("done", "refused")
        self.made.setdefault(path, {"done": 0, "refused": 0, "crashed": 0, "killed": 0})[done.kind] += 1
        self.count(clean, f"{path}, {name}: {done.kind} {done.message[-1500:]} {'CANARY' * self.canary.exists()}")
        if self.canary.exists():
            self.canary.rmdir()


def shoot(folder, count, every):
    """Every `every`-th hostile artifact through every load path."""
    range_ = Range(folder, count)
    cases = trials.cases(folder)
    rows = {"table": trials.table_rows(4), "text": trials.text_rows(4)}
    for name in rows:
        trials.train(cases[name], folder / name)
        model = folder / name / "model"
        contents = json.loads((model / "mainstem.json").read_bytes())
        for what, alter in list(model_cases(model, contents, range_.canary, range_.work))[::every]:
            range_.attempt(f"model of {name}", what, model, alter, lambda f, name=name: use(f, rows[name]))
    for family, source in (("hf", write_hf(folder / "hf")), ("timm", write_timm(folder / "timm"))):
        build(source)
        for what, alter in list(backbone_cases(source, family, range_.canary, range_.work))[::every]:
            range_.attempt(family, what, source, alter, build)
    for what, text in list(config_cases(range_.canary))[::every]:
        range_.attempt("config", what, None, lambda f, text=text: f.write_text(text, encoding="utf-8"), configured)

    def die(figures):
        if figures.get("part") == "refit" and figures.get("step") == 4:
            os._exit(1)

    run = folder / "run"
    trial(lambda: trials.train(cases["table"], run, report=die))
    for what, alter in list(run_cases(run, range_.canary, range_.work))[::every]:
        range_.attempt("resume", what, run, alter, lambda f: trials.train(cases["table"], f, resume=True))
    for what, name, data in list(data_cases(range_.canary, range_.work))[::every]:
        alter = lambda f, name=name, data=data: (f.mkdir(), (f / name).write_bytes(data))  # noqa: E731
        range_.attempt(
            "data", what, None, alter, lambda f, name=name: trials.train({"data": f / name, "target": "y", "epochs": 1}, f / "run")
        )
    return range_


def configured(path):
    more = {} if "backbones" in path.read_text(encoding="utf-8") else {"backbone": "mlp"}
    trials.train({"data": trials.table_rows(), "target": "y", "config": path, "epochs": 1, **more}, path.parent / "run")


def test_the_watch_sees_what_it_should(tmp_path):
    """Planted misdeeds are seen: otherwise the rest proves nothing."""
    (tmp_path / "secret").write_text("secret")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "evil.py").write_text("")

    def stranger():
        sys.path.insert(0, str(inside))
        import evil  # noqa: F401

    misdeeds = {
        "read: ": lambda: (tmp_path / "secret").read_text(),
        "written: ": lambda: (tmp_path / "new").write_text(""),
        "os.system": lambda: os.system("true"),
        "pickle.find_class": lambda: pickle.loads(pickle.dumps(Path("x"))),
        "evil": stranger,
    }
    for sign, misdeed in misdeeds.items():
        done = trial(lambda misdeed=misdeed: watched(misdeed, inside))
        assert done.kind == "crashed"
        assert sign in done.message
    assert trial(lambda: watched(lambda: (inside / "x").write_text("mine"), inside)).kind == "done"


def test_hostile_artifacts(tmp_path):
    count = trials.Count(22, PROMISE, 0)
    shoot(tmp_path, count, every=37)
    count.check()


@pytest.mark.torture
def test_every_hostile_artifact(tmp_path):
    count = trials.Count(22, PROMISE, 0)
    fired = shoot(tmp_path, count, every=1)
    count.write(paths=fired.made)

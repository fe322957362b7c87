"""Ways to spoil a published version; after some its manifest is right again, so that only loading
can tell."""

import hashlib
import json

from safetensors.torch import load_file, save_file


def weights(folder):
    return folder / "model" / "model.safetensors"


def flip_a_byte(folder):
    content = bytearray(weights(folder).read_bytes())
    content[-1] ^= 1
    weights(folder).write_bytes(content)


def cut_short(folder):
    weights(folder).write_bytes(weights(folder).read_bytes()[:-10])


def drop_file(folder):
    weights(folder).unlink()


def drop_manifest(folder):
    (folder / "manifest.json").unlink()


def drop_tensor(folder):
    tensors = load_file(weights(folder))
    del tensors["transformer.ln_f.weight"]
    save_file(tensors, weights(folder))
    repair_manifest(folder)


def no_numbers(folder):
    tensors = load_file(weights(folder))
    tensors["transformer.ln_f.weight"] *= float("nan")
    save_file(tensors, weights(folder))
    repair_manifest(folder)


def repair_manifest(folder, name="model.safetensors"):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    content = (folder / "model" / name).read_bytes()
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    manifest["files"][f"model/{name}"] = facts
    path.write_text(json.dumps(manifest))

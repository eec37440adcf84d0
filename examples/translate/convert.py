#!/usr/bin/env python3
"""Makes a folder for the example `translate` of a LightConv or DynamicConv checkpoint of fairseq.

    pip install "torch>=2.6" safetensors
    python convert.py model.pt dict.de.txt dict.en.txt FOLDER

writes FOLDER/config.json, model.safetensors, dict.source.txt and dict.target.txt. fairseq itself is not needed. The
checkpoint may be one of several that `scripts/average_checkpoints.py` made one of; of an ensemble convert one model.

What `translate` takes are texts in the pieces of these dictionaries, as the model was trained on:

    sacremoses -l de tokenize < text.de | subword-nmt apply-bpe -c code \\
        | cargo run --release --features models --example translate -- FOLDER | sacremoses -l en detokenize
"""

import argparse
import ast
import json
import pathlib
import pickle
import shutil

import torch
from safetensors.torch import save_file

# What fairseq keeps beside the parameters.
NO_PARAMETERS = ("version", "_float_tensor")
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class Meter:
    """Stands for the meters of training that checkpoints had until 2019."""


# All that a checkpoint may be made of besides tensors and plain values: nothing else of it runs, nor is looked for.
KNOWN = [argparse.Namespace]
KNOWN += [(Meter, f"fairseq.meters.{name}Meter") for name in ("Average", "Stopwatch", "Time")]


def options(checkpoint):
    """The options of training: a Namespace until 2020, since then a part of `cfg`."""
    found = checkpoint.get("args") or (checkpoint.get("cfg") or {}).get("model")
    if found is None:
        raise SystemExit("error: the checkpoint says nothing of how it was trained: neither args nor cfg")
    return found if isinstance(found, dict) else vars(found)


def one(both, what):
    """The number that encoder and decoder have in common."""
    if len(set(both)) != 1:
        raise SystemExit(f"error: {what} of encoder and decoder are {both[0]} and {both[1]}: they must be one")
    return both[0]


def configuration(args, weights):
    """config.json, in the words of `LightConvConfig`."""

    def of(name, default):
        return args.get(name, default)

    def both(name, default):
        return one([of(f"encoder_{name}", default), of(f"decoder_{name}", default)], name)

    def widths(side):
        listed = of(f"{side}_kernel_size_list", [3, 7, 15, 31, 31, 31, 31][: 7 if side == "encoder" else 6])
        listed = ast.literal_eval(listed) if isinstance(listed, str) else list(listed)
        layers = of(f"{side}_layers", len(listed))
        return listed * layers if len(listed) == 1 else listed

    def switch(value):
        return value if isinstance(value, bool) else str(value).lower() in ("true", "1", "yes")

    arch = str(of("arch", "lightconv"))
    if not arch.startswith("lightconv") or "lm" in arch.split("_"):
        raise SystemExit(f"error: arch is {arch}, and not a lightconv model for translation")
    if of("adaptive_softmax_cutoff", None):
        raise SystemExit("error: the model has an adaptive softmax, which lightspan has not")
    dim = both("embed_dim", 512)
    if of("decoder_input_dim", dim) != dim or of("decoder_output_dim", dim) != dim:
        raise SystemExit("error: the decoder's embeddings have other channels than its layers")
    rows = {side: weights[f"{side}.embed_tokens.weight"].shape[0] for side in ("encoder", "decoder")}
    shared = switch(of("share_all_embeddings", False))
    longest = [of("max_source_positions", 1024), of("max_target_positions", 1024)]
    learned = both("learned_pos", False)
    positions = "none" if of("no_token_positional_embeddings", False) else "learned" if learned else "sinusoidal"
    return {
        "model": "lightconv",
        "vocab_size": rows["decoder"],
        **({} if rows["encoder"] == rows["decoder"] else {"source_vocab_size": rows["encoder"]}),
        "embed_dim": dim,
        "conv_dim": both("conv_dim", dim),
        "ffn_embed_dim": both("ffn_embed_dim", 2048),
        "attention_heads": both("attention_heads", 8),
        "conv_type": one([of("encoder_conv_type", "dynamic"), of("decoder_conv_type", "dynamic")], "conv_type"),
        "encoder_kernel_widths": widths("encoder"),
        "decoder_kernel_widths": widths("decoder"),
        "glu": one([switch(of("encoder_glu", True)), switch(of("decoder_glu", True))], "glu"),
        "normalize_before": both("normalize_before", False),
        "weight_softmax": switch(of("weight_softmax", True)),
        "share_all_embeddings": shared,
        "share_decoder_input_output_embed": shared or switch(of("share_decoder_input_output_embed", False)),
        "padding_index": 1,
        "eos_index": 2,
        "positions": positions,
        # Sines can be computed for more; a table that was learned has so many rows.
        "max_positions": one(longest, "positions") if positions == "learned" else max(longest),
        "layer_norm_eps": 1e-5,
    }


def parameters(state):
    """The weights under the names that fairseq has now: q, k and v were one matrix until 2019."""
    weights = {}
    for name, tensor in state.items():
        before, _, last = name.rpartition(".")
        if last in NO_PARAMETERS:
            continue
        if last.startswith("in_proj_"):
            kind = last.removeprefix("in_proj_")
            for projection, part in zip(PROJECTIONS, tensor.chunk(3)):
                weights[f"{before}.{projection}.{kind}"] = part
        else:
            weights[name] = tensor
    # Shared tables are one tensor in memory, which a file has to have twice.
    return {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}


def convert(checkpoint, source, target, folder):
    try:
        with torch.serialization.safe_globals(KNOWN):
            checkpoint = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise SystemExit(f"error: cannot read {checkpoint}: {error}") from None
    weights = parameters(checkpoint["model"])
    config = configuration(options(checkpoint), weights)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(weights, folder / "model.safetensors")
    for dictionary, name in ((source, "dict.source.txt"), (target, "dict.target.txt")):
        shutil.copyfile(dictionary, folder / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("checkpoint", type=pathlib.Path, help="a checkpoint of fairseq, as model.pt")
    parser.add_argument("source", type=pathlib.Path, help="the dictionary of the source, as dict.de.txt")
    parser.add_argument("target", type=pathlib.Path, help="the dictionary of the target, as dict.en.txt")
    parser.add_argument("folder", type=pathlib.Path, help="where to write the model")
    arguments = parser.parse_args()
    convert(arguments.checkpoint, arguments.source, arguments.target, arguments.folder)

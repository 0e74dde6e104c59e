"""A network as an ONNX model, which runs without artart and torch."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.data.embeddings import Embeddings
from artart.io.terminal import first_line

TOLERANCE = 1e-4  # between ONNX Runtime and torch, in units of the largest output (of 1, if that is larger)


def model_of(loaded: Loaded, facts: Mapping[str, Any]) -> tuple[bytes, float]:
    """The network as an ONNX model for batches of any size, and its difference to torch in units of the output.

    The model carries `facts` as JSON under the key `artart` and nothing else besides the graph and the weights.

    Raises ArtError if the network cannot be exported; FloatingPointError if the model's outputs differ from the
    network's, or are not finite.
    """
    if isinstance(loaded.text, Embeddings):
        raise ArtError(
            "format=onnx: holds no text encoder, and this network needs a frozen one; use format=safetensors"
        )
    inputs, output = loaded.objective.inputs, loaded.objective.output
    batch = torch.export.Dim("batch")
    with quiet():
        try:
            program = torch.onnx.export(
                loaded.net,
                kwargs=example(loaded.net, inputs, num=2),
                dynamo=True,
                verbose=False,
                input_names=inputs,
                output_names=[output],
                dynamic_shapes={name[0]: {0: batch} for name in inputs},
            )
        except torch.onnx.OnnxExporterError as error:
            reason = first_line(error.__cause__ or error)
            raise ArtError(f"format=onnx: cannot export this network ({reason}); use format=safetensors") from error
        assert program is not None
        model = program.model_proto
        _strip(model)
        model.metadata_props.add(key="artart", value=json.dumps(facts))
        content = model.SerializeToString()
        return content, compare(loaded.net, content, inputs)


def example(net: nn.Module, inputs: Sequence[str], num: int) -> dict[str, Tensor]:
    """Random inputs for a network, by parameter: x (num, C, S, S), t (num,) and y (num, K), or those that it takes.

    The names of inputs begin with those of parameters, such as x_t.
    """
    generator = torch.Generator().manual_seed(num)
    shape: Any = (num, net.channels, net.image_size, net.image_size)
    x = torch.randn(shape, generator=generator)
    t = torch.rand(num, generator=generator)
    num_labels: Any = torch.as_tensor(net.num_classes).reshape(-1) + 1
    y = (torch.rand(num, len(num_labels), generator=generator) * num_labels).long()
    values = {"x": x, "t": t, "y": y}
    return {name[0]: values[name[0]] for name in inputs}


def compare(net: nn.Module, content: bytes, inputs: Sequence[str]) -> float:
    """The greatest difference between ONNX Runtime and torch for a batch of another size, in units of the output.

    Raises FloatingPointError if it is more than rounding.
    """
    import onnxruntime

    values = example(net, inputs, num=3)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {name: values[name[0]].numpy() for name in inputs})
    with torch.inference_mode():
        wanted = net(**values)
    difference = ((torch.from_numpy(made) - wanted).abs().max() / wanted.abs().max().clamp(min=1)).item()
    if not difference <= TOLERANCE:  # which NaN is not
        raise FloatingPointError(
            f"format=onnx: its outputs are {difference:.2g} from those of torch, so nothing was written; "
            "use format=safetensors"
        )
    return difference


def _strip(message: Any) -> None:
    """Remove the exporter's notes, among them names of source files, from a protobuf message and all its parts."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:  # one or many
                _strip(part)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep logs, prints and warnings of libraries off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)

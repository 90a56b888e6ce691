"""The formats of programs: the names of their files, and what else is private to one of them."""

from __future__ import annotations

#: File names of each format, inside the program's folder; the first one is the graph.
FORMAT_FILES = {
    "paddle": ("inference.json", "inference.pdiparams"),
    "onnx": ("model.onnx", "model.onnx.data"),
    "openvino": ("openvino_model.xml", "openvino_model.bin"),
    "openvino_int8": ("openvino_model_int8.xml", "openvino_model_int8.bin"),
    "tensorrt": ("tensorrt.json", "tensorrt.pdiparams"),  # and the engines
}
#: The format of the quantized UNet; other programs never have it.
INT8_FORMAT = "openvino_int8"
#: The TensorRT graphs hold this before an engine's file name, which a runtime replaces by its path:
#: Paddle reads engines from the paths in the graph, and at this one there never is a file.
ENGINE_PLACE = "/dev/null/"


def program_file_names(program: str, format_name: str) -> tuple[str, ...]:
    """Where a program's files lie in a bundle, graph first; TensorRT's engines come after."""
    return tuple(f"{program}/{name}" for name in FORMAT_FILES[format_name])


def engine_file_name(program: str, number: int) -> str:
    """Where a program's TensorRT engine of that number lies in a bundle."""
    return f"{program}/tensorrt_{number}.trt"


def are_program_files(program: str, format_name: str, names: tuple[str, ...]) -> bool:
    """Whether `names` are those of a program in a format; TensorRT's has any number of engines."""
    expected = program_file_names(program, format_name)
    if format_name == "tensorrt":
        count = len(names) - len(expected)
        expected += tuple(engine_file_name(program, number) for number in range(count))
    return names == expected

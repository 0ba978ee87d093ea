"""Files for TensorFlow Lite Micro: a C array and its header, and a program around them."""

import math
import string

from keras_snn.export.names import identifier
from keras_snn.utils import files

__all__ = ["c_array", "project", "write_project"]

# Methods of `MicroMutableOpResolver` whose names don't follow from the operation's.
METHODS = {
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "AVERAGE_POOL_2D": "AveragePool2D",
    "MAX_POOL_2D": "MaxPool2D",
    "SELECT_V2": "SelectV2",
}


def c_array(blob, report, stem):
    """A file as a C array, and a header that tells what is in it.

    Args:
        blob: Bytes of the file.
        report: Its `ExportReport`.
        stem: Name of the files, without their suffixes.

    Returns:
        Texts of the source and of the header.
    """
    prefix = identifier(stem)
    rows = "\n".join(
        "  " + " ".join(f"0x{byte:02x}," for byte in blob[i : i + 12])
        for i in range(0, len(blob), 12)
    )
    source = (
        f'#include "{stem}.h"\n\nalignas(16) const unsigned char {prefix}[] = {{\n{rows}\n}};\n'
        f"const unsigned int {prefix}_len = {len(blob)};\n"
    )
    lines = ["#pragma once", "", f"extern const unsigned char {prefix}[];"]
    lines += [f"extern const unsigned int {prefix}_len;", ""]
    for kind, rows in (("INPUT", report.inputs), ("OUTPUT", report.outputs)):
        for i, row in enumerate(rows):
            shape = "x".join(map(str, row["shape"]))
            lines.append(f"// {kind.lower()} {i}: {row['name']}, {row['type']} {shape}")
            name = f"{prefix}_{kind}_" + row["name"].upper()
            lines += [
                f"#define {name} {i}",
                f"#define {name}_SCALE {row['scale']!r}f",
                f"#define {name}_ZERO_POINT {row['zero_point']}",
            ]
    lines += ["", "// First values of the states, in real numbers"]
    for name, value in report.initial_states.items():
        lines.append(f"#define {prefix}_FIRST_{name.upper()} {value!r}f")
    if report.arena_bytes:
        lines += ["", f"#define {prefix}_ARENA_BYTES {report.arena_bytes}"]
    methods = _methods(report)
    lines += ["", f"// tflite::MicroMutableOpResolver<{len(methods)}> resolver;"]
    lines += [f"// resolver.Add{method}();" for method in methods]
    return source, "\n".join(lines) + "\n"


def _methods(report):
    """What the operations of a file are called by `MicroMutableOpResolver`."""
    return [METHODS.get(op) or op.title().replace("_", "") for op in report.operations]


def project(blob, report, stem):
    """A C++ program that runs a file on TensorFlow Lite Micro, with all that it is compiled from.

    Its `Reset` sets the states to their first values, its `Step` takes one step (or clip) of real
    numbers and keeps the states. `TFLM=path make` compiles it with the sources of TensorFlow Lite
    Micro at that path.

    Args:
        blob: Bytes of the file.
        report: Its `ExportReport`.
        stem: Name of the program.

    Returns:
        Texts by the name of their file: `NAME.cc`, `NAME.h`, `main.cc` and `Makefile`.
    """
    source, header = c_array(blob, report, stem)
    places = {row["name"]: i for i, row in enumerate(report.outputs)}
    sizes = [math.prod(row["shape"]) for row in report.inputs]
    names = [row["name"] for row in report.inputs]
    states = [
        (i, places[f"{name}_out"], name, size)
        for i, (name, size) in enumerate(zip(names, sizes))
        if name in report.initial_states
    ]
    inputs = [i for i, name in enumerate(names) if name not in report.initial_states]
    outputs = sorted({*places.values()} - {place for _, place, _, _ in states})
    kind, stored, real = FORMS[report.inputs[0]["type"]]
    main = string.Template(MAIN).substitute(
        stem=stem,
        model=identifier(stem),
        kind=kind,
        stored=stored,
        real=real,
        arena=report.arena_bytes + ALIGNMENT if report.arena_bytes else UNKNOWN_ARENA,
        memories="\n".join(f"{kind} state_{i}[{size}];" for i, _, _, size in states),
        states="\n".join(
            f"    {{{i}, {o}, {report.initial_states[name]!r}f, state_{i}}},  // {name}"
            for i, o, name, _ in states
        ),
        inputs=", ".join(map(str, inputs)),
        outputs=", ".join(map(str, outputs)),
        frame=sum(sizes[i] for i in inputs),
        answer=sum(math.prod(report.outputs[i]["shape"]) for i in outputs),
        count=len(report.operations),
        methods="\n".join(f"  resolver.Add{method}();" for method in _methods(report)),
        steps=report.timesteps if report.mode == "step" else 1,
    )
    makefile = MAKEFILE.replace("NAME", stem)
    return {f"{stem}.cc": source, f"{stem}.h": header, "main.cc": main, "Makefile": makefile}


def write_project(path, report):
    """Writes `project` of an exported file into a folder beside it, `NAME_tflm`.

    Args:
        path: Path of the exported file.
        report: Its `ExportReport`.

    Returns:
        The folder.
    """
    folder = path.with_name(f"{path.stem}_tflm")
    folder.mkdir(exist_ok=True)
    for name, text in project(path.read_bytes(), report, path.stem).items():
        files.write(folder / name, text)
    return folder


# What the arena may lose to alignment, and what a program starts with where nobody measured it.
ALIGNMENT, UNKNOWN_ARENA = 64, 1 << 18


def _integer_form(bits):
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    return (
        f"int{bits}_t",
        "const TfLiteQuantizationParams q = tensor->params;\n"
        "  const float code = std::nearbyintf(x / q.scale) + q.zero_point;\n"
        f"  return static_cast<int{bits}_t>(std::fmin(std::fmax(code, {low}.0f), {high}.0f));",
        "return static_cast<float>(code - tensor->params.zero_point) * tensor->params.scale;",
    )


# By the type of a file: that of C++, how a tensor stores `x`, and what its `code` stands for.
FORMS = {
    "float32": ("float", "return x;", "return code;"),
    "int8": _integer_form(8),
    "int16": _integer_form(16),
}
MAIN = """\
// Written by keras_snn: $stem on TensorFlow Lite Micro.
//
//     $stem           one clip of zeros
//     $stem FILE      the clips in a file of float32, one step after another
//
// Prints the outputs after each clip.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "$stem.h"
#include "tensorflow/lite/kernels/internal/tensor_ctypes.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {

using Code = $kind;

struct State {
  int input, output;  // where it is among inputs, and its new value among outputs
  float first;        // before the first step, a real number
  Code* memory;       // between steps: the memory of inputs is used for other tensors
};

alignas(16) uint8_t arena[$arena];
$memories
const State states[] = {
$states
    {0, 0, 0.0f, nullptr},
};
const int inputs[] = {$inputs}, outputs[] = {$outputs};  // those that are no states
tflite::MicroInterpreter* interpreter;

Code* Data(TfLiteTensor* tensor) { return tflite::GetTensorData<Code>(tensor); }

size_t Size(const TfLiteTensor* tensor) { return tensor->bytes / sizeof(Code); }

Code Stored([[maybe_unused]] const TfLiteTensor* tensor, float x) {
  $stored
}

float Real([[maybe_unused]] const TfLiteTensor* tensor, Code code) {
  $real
}

// Before each clip.
void Reset() {
  for (const State* state = states; state->memory; ++state) {
    TfLiteTensor* tensor = interpreter->input(state->input);
    for (size_t i = 0; i < Size(tensor); ++i) {
      state->memory[i] = Stored(tensor, state->first);
    }
  }
}

// One step, or a whole clip if there are no states: all inputs, and all outputs, as real numbers
// one after another. After the last step of a clip the outputs are those of the clip.
bool Step(const float* frame, float* answer) {
  for (int place : inputs) {
    TfLiteTensor* tensor = interpreter->input(place);
    for (size_t i = 0; i < Size(tensor); ++i) Data(tensor)[i] = Stored(tensor, *frame++);
  }
  for (const State* state = states; state->memory; ++state) {
    TfLiteTensor* tensor = interpreter->input(state->input);
    std::memcpy(Data(tensor), state->memory, tensor->bytes);
  }
  if (interpreter->Invoke() != kTfLiteOk) return false;
  for (const State* state = states; state->memory; ++state) {
    TfLiteTensor* before = interpreter->input(state->input);
    TfLiteTensor* after = interpreter->output(state->output);
    for (size_t i = 0; i < Size(after); ++i) {
      state->memory[i] = Stored(before, Real(after, Data(after)[i]));
    }
  }
  for (int place : outputs) {
    TfLiteTensor* tensor = interpreter->output(place);
    for (size_t i = 0; i < Size(tensor); ++i) *answer++ = Real(tensor, Data(tensor)[i]);
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  static float frame[$frame], answer[$answer];
  tflite::InitializeTarget();
  tflite::MicroMutableOpResolver<$count> resolver;
$methods
  tflite::MicroInterpreter found(tflite::GetModel($model), resolver, arena, sizeof arena);
  interpreter = &found;
  if (interpreter->AllocateTensors() != kTfLiteOk) return 1;
  std::FILE* file = argc > 1 ? std::fopen(argv[1], "rb") : nullptr;
  if (argc > 1 && !file) {
    std::perror(argv[1]);
    return 1;
  }
  do {
    Reset();
    for (int t = 0; t < $steps; ++t) {
      if (file && std::fread(frame, sizeof frame, 1, file) != 1) return 0;
      if (!Step(frame, answer)) return 1;
    }
    for (float value : answer) std::printf("%.9g ", value);
    std::printf("\\n");
  } while (file);
  return 0;
}
"""
MAKEFILE = """\
# Written by keras_snn. `TFLM=path make`, where the path is that of TensorFlow Lite Micro's sources:
# a tree that its `create_tflm_tree.py` made, or a clone after
# `make -f tensorflow/lite/micro/tools/make/Makefile third_party_downloads`.
# For a board: `CXX=arm-none-eabi-g++ AR=arm-none-eabi-ar CXXFLAGS="-Os -mcpu=cortex-m4" make`.

CXXFLAGS ?= -O2
KERNELS ?= *
MLIR := tensorflow/compiler/mlir/lite
LITE := tensorflow/lite
MICRO := $(LITE)/micro
PLACES := third_party $(MICRO)/tools/make/downloads
THIRD_PARTY := $(dir $(firstword $(wildcard $(PLACES:%=$(TFLM)/%/gemmlowp))))
FILES := $(MLIR)/core/api/* $(MLIR)/schema/* $(LITE)/* $(LITE)/core/api/* $(LITE)/core/c/* \\
    $(LITE)/kernels/* $(LITE)/kernels/internal/* $(LITE)/kernels/internal/reference/* \\
    $(MICRO)/* $(MICRO)/arena_allocator/* $(MICRO)/memory_planner/* $(MICRO)/tflite_bridge/* \\
    $(KERNELS:%=$(MICRO)/kernels/%)
TESTS := %_test.cc %_test_common.cc %/test_helpers.cc %/test_helper_custom_ops.cc \\
    %/fake_micro_context.cc %/mock_micro_graph.cc %/kernel_runner.cc
SOURCES := $(filter-out $(TESTS),$(wildcard $(FILES:%=$(TFLM)/%.cc)))
OBJECTS := $(SOURCES:$(TFLM)/%.cc=build/%.o)
override CPPFLAGS += -DTF_LITE_STATIC_MEMORY -I. -I$(TFLM) -I$(THIRD_PARTY)flatbuffers/include \\
    -I$(THIRD_PARTY)gemmlowp -I$(THIRD_PARTY)ruy
override CXXFLAGS += -std=c++17 -fno-exceptions -fno-rtti -ffunction-sections -fdata-sections

NAME: main.cc NAME.cc NAME.h build/libtflm.a
	$(CXX) $(CPPFLAGS) $(CXXFLAGS) main.cc NAME.cc build/libtflm.a $(LDFLAGS) -o $@

build/libtflm.a: $(OBJECTS)
	$(if $(OBJECTS),,$(error Give the path of the sources of TensorFlow Lite Micro: TFLM=path make))
	$(AR) rcs $@ $^

build/%.o: $(TFLM)/%.cc
	@mkdir -p $(dir $@)
	$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@

.PHONY: clean
clean:
	rm -rf build NAME
"""

// The host side of csrc/cuda for tensors on the CPU: its operators are registered for them. Torch's own headers come
// first, which have another meaning for the name.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#define CUDA CPU

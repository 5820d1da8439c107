// The part of TensorRT's interfaces that the plugin needs, as NvInfer.h declares it.
#pragma once

#include "NvInfer.h"

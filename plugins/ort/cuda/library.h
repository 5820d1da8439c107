// libvivim_kernels.so, opened where it is found: this library links nothing of CUDA.
#pragma once

#include <string>

#include "vivim_kernels.h"

namespace vivim::cuda
{
struct Library
{
    std::string path;
    decltype(&vivim_causal_conv1d) causalConv1d;
    decltype(&vivim_selective_scan) selectiveScan;
    decltype(&vivim_streaming_conv1d) streamingConv1d; // null in the first releases, as is the next
    decltype(&vivim_streaming_scan) streamingScan;
    decltype(&vivim_s6_scan) s6Scan; // null in releases before it, as are the next two
    decltype(&vivim_s6_default_tactic) s6DefaultTactic;
    decltype(&vivim_s6_workspace) s6Workspace;
    decltype(&vivim_scan_default_tactic) defaultTactic;
    decltype(&vivim_scan_workspace) workspace;
    decltype(&vivim_kernels_error) error;
};

// $VIVIM_KERNELS, or beside this library, or in gpu/ beside its folder, where `make plugins` builds it; null where there
// is none that loads.
Library const* library();
} // namespace vivim::cuda

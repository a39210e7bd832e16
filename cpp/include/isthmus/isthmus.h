#pragma once

/// Everything but torch.h, which needs LibTorch's headers.
#include "isthmus/bundle.h"
#include "isthmus/device.h"
#include "isthmus/dtype.h"
#include "isthmus/engine.h"
#include "isthmus/error.h"
#include "isthmus/error_statistics.h"
#include "isthmus/machine.h"
#include "isthmus/model.h"
#include "isthmus/options.h"
#include "isthmus/parity.h"
#include "isthmus/report.h"
#include "isthmus/scan.h"
#include "isthmus/signature.h"
#include "isthmus/tensor.h"
#include "isthmus/tensor_file.h"
#include "isthmus/timing.h"

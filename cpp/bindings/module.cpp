#include <pybind11/pybind11.h>

#include "bindings/bindings.h"
#include "bindings/errors.h"
#include "isthmus/machine.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The native core of isthmus.";
  module.attr("__version__") = isthmus::version();
  isthmus::bindings::bind_errors(module);
  isthmus::bindings::bind_tensor(module);
  isthmus::bindings::bind_bundle(module);
  isthmus::bindings::bind_model(module);
  isthmus::bindings::bind_batcher(module);
  isthmus::bindings::bind_reports(module);
}

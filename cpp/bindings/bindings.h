#pragma once

#include <pybind11/pybind11.h>

namespace isthmus::bindings {

void bind_tensor(pybind11::module_& module);
void bind_batcher(pybind11::module_& module);
void bind_bundle(pybind11::module_& module);
void bind_model(pybind11::module_& module);
void bind_reports(pybind11::module_& module);

}  // namespace isthmus::bindings

#pragma once

#include <pybind11/pybind11.h>

namespace isthmus::bindings {

/// C++ errors reach Python as the classes of isthmus.errors.
void bind_errors(pybind11::module_& module);

}  // namespace isthmus::bindings

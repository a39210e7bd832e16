#pragma once

#include <pybind11/pybind11.h>

namespace isthmus::bindings {

/// Registers the translation of C++ errors to the classes of isthmus.errors.
void bind_errors(pybind11::module_& module);

}  // namespace isthmus::bindings

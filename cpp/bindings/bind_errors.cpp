#include "bindings/errors.h"
#include "isthmus/error.h"

namespace py = pybind11;

namespace isthmus::bindings {

void bind_errors(py::module_&) {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      const py::object type = py::module_::import("isthmus.errors").attr(name(error.kind()));
      PyErr_SetString(type.ptr(), error.what());
    }
  });
}

}  // namespace isthmus::bindings

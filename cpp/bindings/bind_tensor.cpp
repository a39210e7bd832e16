#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/array_exchange.h"
#include "bindings/bindings.h"
#include "isthmus/error.h"
#include "isthmus/tensor.h"

namespace py = pybind11;

namespace isthmus::bindings {
namespace {

/// Returns an owner of a Python object that acquires the GIL to release it.
std::shared_ptr<void> keep(py::object object) {
  return {object.release().ptr(), [](void* held) {
            const py::gil_scoped_acquire gil;
            Py_DECREF(static_cast<PyObject*>(held));
          }};
}

Tensor from_array(const py::object& value) {
  Family family;
  const Tensor tensor = to_tensor(value, "value", family);
  return Tensor::wrap(tensor.data(), tensor.dtype(), tensor.shape(),
                      tensor.owner() ? tensor.owner() : keep(value), tensor.device(),
                      tensor.strides());
}

template <typename Managed>
py::capsule capsule_of(Managed* managed, const char* name) {
  return py::capsule(managed, name, [](PyObject* capsule) {
    // A consumer renames the capsule when it takes the tensor.
    const char* label = PyCapsule_GetName(capsule);
    if (std::string_view(label).starts_with("used_")) return;
    auto* kept = static_cast<Managed*>(PyCapsule_GetPointer(capsule, label));
    if (kept != nullptr && kept->deleter != nullptr) kept->deleter(kept);
  });
}

py::capsule dlpack_capsule(const Tensor& tensor, const py::kwargs& options) {
  const bool versioned = options.contains("max_version") && !options["max_version"].is_none();
  if (versioned) return capsule_of(tensor.to_dlpack_versioned(), "dltensor_versioned");
  return capsule_of(tensor.to_dlpack(), "dltensor");
}

}  // namespace

void bind_tensor(py::module_& module) {
  py::class_<Tensor>(module, "Tensor",
                     "An array of the native library, which imports and exports DLPack.")
      .def(py::init(&from_array), py::arg("array"), "Shares the memory of any array.")
      .def_property_readonly("dtype", [](const Tensor& t) { return std::string(name(t.dtype())); })
      .def_property_readonly("shape",
                             [](const Tensor& t) { return py::tuple(py::cast(t.shape())); })
      .def_property_readonly("device", [](const Tensor& t) { return to_string(t.device()); })
      .def("__repr__", &Tensor::describe)
      .def("__dlpack__", &dlpack_capsule)
      .def("__dlpack_device__", [](const Tensor& t) {
        return py::make_tuple(t.device().is_cpu() ? 1 : 2, t.device().index);
      });
}

}  // namespace isthmus::bindings

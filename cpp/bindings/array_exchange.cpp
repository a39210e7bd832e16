#include "bindings/array_exchange.h"

#include <pybind11/numpy.h>

#include <unordered_map>

#include "core/tensor/dtype_table.h"
#include "isthmus/error.h"

namespace py = pybind11;

namespace isthmus::bindings {
namespace {

constexpr const char* kCapsule = "dltensor";
constexpr const char* kVersionedCapsule = "dltensor_versioned";

/// Returns the exchange interface of a type, or null when it has none. The result is cached by
/// type; cached types are kept alive, so that no other type can get their address.
const dlpack::ExchangeApi* exchange_of(PyTypeObject* type) {
  static auto& cache = *new std::unordered_map<PyTypeObject*, const dlpack::ExchangeApi*>;
  const auto cached = cache.find(type);
  if (cached != cache.end()) return cached->second;
  const dlpack::ExchangeApi* api = nullptr;
  const py::handle type_object(reinterpret_cast<PyObject*>(type));
  if (py::hasattr(type_object, "__dlpack_c_exchange_api__")) {
    const py::object capsule = type_object.attr("__dlpack_c_exchange_api__");
    if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api") != 0)
      api = static_cast<const dlpack::ExchangeApi*>(
          PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (api != nullptr && api->header.version.major != dlpack::kMajorVersion) api = nullptr;
  }
  type_object.inc_ref();
  cache.emplace(type, api);
  return api;
}

bool is_torch(PyTypeObject* type) {
  for (PyTypeObject* base = type; base != nullptr; base = base->tp_base)
    if (std::string_view(base->tp_name) == "Tensor" ||
        std::string_view(base->tp_name).starts_with("torch."))
      return true;
  return false;
}

std::string type_name(py::handle value) {
  return Py_TYPE(value.ptr())->tp_name;
}

[[noreturn]] void refuse(const std::string& name, py::handle value, const std::string& why) {
  throw InvalidInput("input \"" + name +
                     "\": expected an array (torch, NumPy, or anything with "
                     "DLPack), got a " +
                     type_name(value) + why);
}

/// Clears the current Python error and returns its text.
std::string python_error() {
  const py::error_already_set error;
  return py::str(error.value()).cast<std::string>();
}

Tensor from_exchange(py::handle value, const std::string& name, const dlpack::ExchangeApi* api) {
  dlpack::ManagedTensorVersioned* managed = nullptr;
  if (api->from_object(value.ptr(), &managed) != 0) {
    if (PyErr_Occurred() != nullptr)
      refuse(name, value, " that DLPack cannot export: " + python_error());
    refuse(name, value, " that DLPack cannot export: make it dense and contiguous");
  }
  const Tensor tensor = Tensor::from_dlpack(managed);
  if (!tensor.is_contiguous() && tensor.device().is_cuda()) {
    // The core copies on the CPU only, so torch copies on the device; the copy owns its memory, and
    // a call must not write it in place of the original.
    const py::object copy = value.attr("contiguous")();
    return from_exchange(copy, name, api).as_read_only();
  }
  // DLPack does not represent lazy conjugation and negation.
  static PyObject* const kIsNeg = PyUnicode_InternFromString("is_neg");
  static PyObject* const kIsConj = PyUnicode_InternFromString("is_conj");
  const auto flagged = [&](PyObject* method) {
    const auto answer =
        py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(value.ptr(), method));
    if (!answer) throw py::error_already_set();
    return answer.ptr() == Py_True;
  };
  if (is_floating(tensor.dtype()) && (flagged(kIsNeg) || flagged(kIsConj)))
    refuse(name, value,
           " with a lazy negation or conjugation: call .resolve_neg() and "
           ".resolve_conj() on it first");
  return tensor;
}

Tensor from_numpy(const py::array& array, const std::string& name) {
  const py::dtype dtype = array.dtype();
  const auto size = static_cast<std::size_t>(dtype.itemsize());
  std::uint8_t code = 255;
  switch (dtype.kind()) {
    case 'b':
      code = dlpack::kBool;
      break;
    case 'i':
      code = dlpack::kInt;
      break;
    case 'u':
      code = dlpack::kUInt;
      break;
    case 'f':
      code = dlpack::kFloat;
      break;
    case 'c':
      code = dlpack::kComplex;
      break;
    default:
      break;
  }
  const DTypeRow* row = nullptr;
  for (const DTypeRow& candidate : kDTypes)
    if (candidate.dlpack_code == code && candidate.size == size) row = &candidate;
  if (row == nullptr || dtype.byteorder() == '>')
    refuse(name, array,
           " of dtype " + py::str(dtype).cast<std::string>() +
               "; convert it to a number type of this machine's byte order");
  Shape shape(array.shape(), array.shape() + array.ndim());
  Shape strides;
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
    if (array.strides(axis) % static_cast<py::ssize_t>(size) != 0)
      refuse(name, array, " whose strides are no multiple of its items: pass a copy of it");
    strides.push_back(array.strides(axis) / static_cast<py::ssize_t>(size));
  }
  const Tensor tensor = Tensor::wrap(const_cast<void*>(array.data()), row->dtype, std::move(shape),
                                     nullptr, {}, std::move(strides));
  return array.writeable() ? tensor : tensor.as_read_only();
}

/// Returns the module in which the type of a value is defined.
std::string module_of(py::handle value) {
  return py::str(py::type::of(value).attr("__module__")).cast<std::string>();
}

/// Returns true for arrays whose memory their library takes for constant, though not every version
/// of it says so in DLPack.
bool is_immutable(py::handle value) {
  const std::string module = module_of(value);
  return module.starts_with("jax") || module.starts_with("tensorflow");
}

/// Exports an array; only a versioned capsule says that the memory is read-only.
py::object export_capsule(py::handle value) {
  try {
    return value.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    return value.attr("__dlpack__")();  // the protocol before 1.0
  }
}

Tensor from_protocol(py::handle value, const std::string& name) {
  py::object capsule;
  try {
    capsule = export_capsule(value);
  } catch (const py::error_already_set& error) {
    refuse(name, value, " whose __dlpack__ failed: " + py::str(error.value()).cast<std::string>());
  }
  if (PyCapsule_IsValid(capsule.ptr(), kCapsule) != 0) {
    auto* managed =
        static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), kCapsule));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
    const Tensor tensor = Tensor::from_dlpack(managed);
    return is_immutable(value) ? tensor.as_read_only() : tensor;
  }
  if (PyCapsule_IsValid(capsule.ptr(), kVersionedCapsule) != 0) {
    auto* managed = static_cast<dlpack::ManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), kVersionedCapsule));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    const Tensor tensor = Tensor::from_dlpack(managed);
    return is_immutable(value) ? tensor.as_read_only() : tensor;
  }
  refuse(name, value, " whose __dlpack__ gave no DLPack capsule");
}

py::object from_dlpack_of(py::handle value) {
  const std::string module = module_of(value);
  const py::dict modules = py::module_::import("sys").attr("modules");
  for (const std::string& name :
       {module.substr(0, module.find('.')) + ".numpy", module.substr(0, module.find('.'))})
    if (modules.contains(name) && py::hasattr(modules[name.c_str()], "from_dlpack"))
      return modules[name.c_str()].attr("from_dlpack");
  return {};
}

py::object to_numpy(const Tensor& tensor) {
  const DTypeRow& row = row_of(tensor.dtype());
  if (!tensor.device().is_cpu())
    throw InvalidInput("an output on " + to_string(tensor.device()) +
                       " cannot become a NumPy array: pass torch tensors in to get them back");
  if (tensor.dtype() == DType::kBFloat16)
    throw InvalidInput("NumPy has no bfloat16: pass torch tensors in to get them back");
  std::vector<py::ssize_t> shape(tensor.shape().begin(), tensor.shape().end());
  auto kept = std::make_unique<Tensor>(tensor);
  const py::capsule base(kept.get(), [](void* held) {
    const std::unique_ptr<Tensor> freed(static_cast<Tensor*>(held));
  });
  (void)kept.release();
  return py::array(py::dtype(std::string(row.name)), std::move(shape), tensor.data(), base);
}

py::object to_torch(const Tensor& tensor, const dlpack::ExchangeApi* api) {
  void* object = nullptr;
  if (api->to_object(tensor.to_dlpack_versioned(), &object) != 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

bool is_scalar_number(py::handle value) {
  return PyFloat_Check(value.ptr()) || PyLong_Check(value.ptr());  // a bool is an int too
}

Tensor scalar_tensor(py::handle value, const ValueSpec& spec) {
  switch (spec.kind) {
    case ValueKind::kBoolean:
      if (PyBool_Check(value.ptr())) return Tensor::scalar<bool>(value.ptr() == Py_True);
      break;
    case ValueKind::kInteger:
      if (PyLong_Check(value.ptr()) && !PyBool_Check(value.ptr())) {
        int overflow = 0;
        const long long number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
        if (overflow != 0)
          throw InvalidInput("input \"" + spec.name + "\": " + py::str(value).cast<std::string>() +
                             " does not fit into 64 bits");
        return Tensor::scalar<std::int64_t>(number);
      }
      break;
    case ValueKind::kFloating:
      if (!PyBool_Check(value.ptr())) return Tensor::scalar<double>(PyFloat_AsDouble(value.ptr()));
      break;
    case ValueKind::kTensor:
      break;
  }
  const char* wanted = spec.kind == ValueKind::kBoolean   ? "a bool"
                       : spec.kind == ValueKind::kInteger ? "an int"
                       : spec.kind == ValueKind::kFloating
                           ? "a float"
                           : "an array (torch, NumPy, or anything with DLPack)";
  throw InvalidInput("input \"" + spec.name + "\": expected " + wanted + ", got the " +
                     type_name(value) + " " + py::str(value).cast<std::string>());
}

}  // namespace

void Family::join(const Family& other) {
  if (static_cast<int>(other.kind) == 0) return;
  const auto rank = [](Kind of) { return of == Kind::kTorch ? 4 : static_cast<int>(of); };
  if (rank(other.kind) > rank(kind)) *this = other;
}

Tensor to_tensor(py::handle value, const ValueSpec& spec, Family& family) {
  if (value.is_none()) return {};
  if (is_scalar_number(value)) return scalar_tensor(value, spec);
  return to_tensor(value, spec.name, family);
}

Tensor to_tensor(py::handle value, const std::string& name, Family& family) {
  PyTypeObject* type = Py_TYPE(value.ptr());
  if (const dlpack::ExchangeApi* api = exchange_of(type)) {
    if (family.kind != Family::Kind::kTorch || family.exchange != api)
      family.join({Family::Kind::kTorch, api, {}});
    return from_exchange(value, name, api);
  }
  if (py::isinstance<py::array>(value)) {
    family.join({Family::Kind::kNumpy, nullptr, {}});
    return from_numpy(py::reinterpret_borrow<py::array>(value), name);
  }
  if (py::hasattr(value, "__dlpack__")) {
    if (is_torch(type)) refuse(name, value, " of a torch older than 2.10; upgrade torch");
    family.join({Family::Kind::kOther, nullptr, from_dlpack_of(value)});
    return from_protocol(value, name);
  }
  // NumPy scalars, such as numpy.float32(1), become arrays without dimensions.
  if (std::string_view(type->tp_name).starts_with("numpy.")) {
    family.join({Family::Kind::kNumpy, nullptr, {}});
    return from_numpy(py::array(py::reinterpret_borrow<py::object>(value)), name)
        .clone()
        .as_read_only();
  }
  refuse(name, value, "; convert it to one");
}

void count_write(py::handle value) {
  if (exchange_of(Py_TYPE(value.ptr())) == nullptr) return;
  if (value.attr("is_inference")().cast<bool>()) return;  // has no version
  py::module_::import("torch.autograd.graph").attr("increment_version")(value);
}

py::object to_python(const Tensor& tensor, ValueKind kind, const Family& family) {
  if (!tensor.defined()) return py::none();
  switch (kind) {
    case ValueKind::kBoolean:
      return py::bool_(tensor.item<bool>());
    case ValueKind::kInteger:
      return py::int_(tensor.item<std::int64_t>());
    case ValueKind::kFloating:
      return py::float_(tensor.item<double>());
    case ValueKind::kTensor:
      break;
  }
  if (family.kind == Family::Kind::kTorch) return to_torch(tensor, family.exchange);
  if (family.kind == Family::Kind::kOther && family.from_dlpack)
    return family.from_dlpack(py::cast(tensor));
  if (family.kind == Family::Kind::kNone) {
    // No input was an array: torch is used when the process has imported it.
    const py::dict modules = py::module_::import("sys").attr("modules");
    if (modules.contains("torch")) {
      const py::object type = modules["torch"].attr("Tensor");
      if (const auto* api = exchange_of(reinterpret_cast<PyTypeObject*>(type.ptr())))
        return to_torch(tensor, api);
    }
  }
  return to_numpy(tensor);
}

}  // namespace isthmus::bindings

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <map>
#include <optional>
#include <string>

#include "bindings/array_exchange.h"
#include "bindings/bindings.h"
#include "isthmus/engine.h"
#include "isthmus/machine.h"
#include "isthmus/parity.h"

namespace py = pybind11;

namespace isthmus::bindings {
namespace {

using Named = std::map<std::string, double>;

/// Calls `take(index, value)` for each known statistic. Unknown names are ignored.
template <typename Take>
void each_statistic(const Named& named, Take take) {
  for (std::size_t at = 0; at < kStatistics; ++at) {
    const auto entry = named.find(std::string(kStatisticNames[at]));
    if (entry != named.end()) take(at, entry->second);
  }
}

ErrorStatistics statistics_from(const Named& named) {
  ErrorStatistics result;
  each_statistic(named, [&](std::size_t at, double value) { result.values[at] = value; });
  return result;
}

Named named(const ErrorStatistics& statistics) {
  Named result;
  for (std::size_t at = 0; at < kStatistics; ++at)
    result.emplace(kStatisticNames[at], statistics.values[at]);
  return result;
}

OutputParity compare_arrays(const std::string& output, const py::object& reference,
                            const py::object& actual, double atol, double rtol,
                            std::optional<double> noise, const py::object& own_error,
                            const Named& multiples, const Named& allowance, const Named& own) {
  Family family;
  const Tensor expected = to_tensor(reference, "reference", family).contiguous();
  const Tensor got = to_tensor(actual, "actual", family).contiguous();
  const Tensor error =
      own_error.is_none() ? Tensor{} : to_tensor(own_error, "own_error", family).contiguous();
  Tolerance tolerance{atol, rtol, {}};
  each_statistic(multiples,
                 [&](std::size_t at, double value) { tolerance.limits.multiples[at] = value; });
  tolerance.limits.allowance = statistics_from(allowance);
  tolerance.limits.own = statistics_from(own);
  const NoiseFloor floor{noise.value_or(0), 0, "float64"};
  const py::gil_scoped_release release;
  return compare(output, expected, got, tolerance, noise ? &floor : nullptr, error);
}

}  // namespace

void bind_reports(py::module_& module) {
  py::class_<OutputParity>(module, "OutputParity",
                           "The comparison of an output with its reference.")
      .def_readonly("output", &OutputParity::output)
      .def_readonly("passed", &OutputParity::passed)
      .def_readonly("reason", &OutputParity::reason)
      .def_readonly("max_abs", &OutputParity::max_abs)
      .def_readonly("max_rel", &OutputParity::max_rel)
      .def_readonly("noise_units", &OutputParity::noise_units)
      .def_readonly("cosine", &OutputParity::cosine)
      .def_readonly("nan_mismatches", &OutputParity::nan_mismatches)
      .def_readonly("inf_mismatches", &OutputParity::inf_mismatches)
      .def_readonly("nans", &OutputParity::nans)
      .def_readonly("infs", &OutputParity::infs)
      .def_readonly("argmax_agreement", &OutputParity::argmax_agreement)
      .def_readonly("topk_agreement", &OutputParity::topk_agreement)
      .def_readonly("passing_atol", &OutputParity::passing_atol)
      .def_readonly("to_truth", &OutputParity::to_truth)
      .def_readonly("statistic", &OutputParity::statistic)
      .def_readonly("multiple", &OutputParity::multiple)
      .def_property_readonly("errors", [](const OutputParity& self) { return named(self.errors); })
      .def_property_readonly("own", [](const OutputParity& self) { return named(self.own); })
      .def_property_readonly("allowed",
                             [](const OutputParity& self) { return named(self.allowed); })
      .def_property_readonly("strain", &OutputParity::strain)
      .def_readonly("elements", &OutputParity::elements)
      .def("__bool__", [](const OutputParity& self) { return self.passed; });
  module.def("compare", &compare_arrays, py::arg("output"), py::arg("reference"), py::arg("actual"),
             py::kw_only(), py::arg("atol"), py::arg("rtol"), py::arg("noise") = py::none(),
             py::arg("own_error") = py::none(), py::arg("multiples") = Named{},
             py::arg("allowance") = Named{}, py::arg("own") = Named{},
             "Compares an output with its reference, as `isthmus-run verify` does.");

  py::class_<EngineInfo>(module, "EngineInfo", "The description of an engine and its runtime.")
      .def_readonly("name", &EngineInfo::name)
      .def_readonly("runtime", &EngineInfo::runtime)
      .def_readonly("runtime_path", &EngineInfo::runtime_path)
      .def_readonly("unavailable", &EngineInfo::unavailable)
      .def_readonly("devices", &EngineInfo::devices)
      .def_readonly("runtime_files", &EngineInfo::runtime_files)
      .def_readonly("details", &EngineInfo::details);
  module.def(
      "engine_names", [] { return engine_names(); }, "Returns the names of the installed engines.");
  module.def(
      "engine_formats", [](const std::string& name) { return open_engine(name).formats(); },
      py::arg("name"), "Returns the artifact formats that an engine runs. Opens no runtime.");
  module.def(
      "engine_info", [](const std::string& name) { return open_engine(name).info(); },
      py::arg("name"), "Opens an engine's runtime and describes it.");

  py::class_<Machine>(module, "Machine", "The machine this process runs on.")
      .def_readonly("system", &Machine::system)
      .def_readonly("cpu", &Machine::cpu)
      .def_readonly("cores", &Machine::cores)
      .def_readonly("isa", &Machine::isa)
      .def_readonly("gpus", &Machine::gpus)
      .def_readonly("gpu_driver", &Machine::gpu_driver)
      .def_readonly("openmp", &Machine::openmp);
  module.def("this_machine", &this_machine, "Describes the machine.");
  module.def(
      "machine_key", [] { return machine_key(this_machine()); },
      "Returns a key of the machine, which is the same on machines with the same fastest engine.");
  module.def("build_info", &build_info, "Describes how libisthmus was built.");
}

}  // namespace isthmus::bindings

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include "bindings/bindings.h"
#include "bindings/call.h"
#include "isthmus/model.h"

namespace py = pybind11;

namespace isthmus::bindings {
namespace {

std::unique_ptr<BoundModel> load(const std::filesystem::path& path, const LoadOptions& options) {
  const py::gil_scoped_release release;
  return std::make_unique<BoundModel>(Model::load(path, options));
}

void bind_load_options(py::module_& module) {
  py::class_<LoadOptions>(module, "LoadOptions", "The options of a load; see isthmus.load.")
      .def(py::init<>())
      .def_readwrite("engine", &LoadOptions::engine)
      .def_readwrite("artifact", &LoadOptions::artifact)
      .def_readwrite("device", &LoadOptions::device)
      .def_readwrite("threads", &LoadOptions::threads)
      .def_readwrite("warmup", &LoadOptions::warmup)
      .def_readwrite("warmup_in_background", &LoadOptions::warmup_in_background)
      .def_readwrite("mmap", &LoadOptions::mmap)
      .def_property(
          "trust", [](const LoadOptions& self) { return std::string(name(self.trust)); },
          [](LoadOptions& self, std::string_view text) { self.trust = parse_trust(text); })
      .def_property(
          "optimize", [](const LoadOptions& self) { return std::string(name(self.optimize)); },
          [](LoadOptions& self, std::string_view text) { self.optimize = parse_optimize(text); })
      .def_property(
          "specials", [](const LoadOptions& self) { return std::string(name(self.specials)); },
          [](LoadOptions& self, std::string_view text) { self.specials = parse_specials(text); })
      .def_property(
          "unproven", [](const LoadOptions& self) { return std::string(name(self.unproven)); },
          [](LoadOptions& self, std::string_view text) { self.unproven = parse_unproven(text); })
      .def_readwrite("op_libraries", &LoadOptions::op_libraries)
      .def_readwrite("installed_op_libraries", &LoadOptions::installed_op_libraries)
      .def_readwrite("engine_options", &LoadOptions::engine_options)
      .def_readwrite("record", &LoadOptions::record)
      .def_readwrite("record_limit", &LoadOptions::record_limit);
}

void bind_load_report(py::module_& module) {
  py::class_<WarmupReport>(module, "WarmupReport", "The warm-up of one shape.")
      .def_readonly("golden", &WarmupReport::golden)
      .def_readonly("calls", &WarmupReport::calls)
      .def_readonly("first_ms", &WarmupReport::first_ms)
      .def_readonly("steady_ms", &WarmupReport::steady_ms)
      .def_readonly("steady", &WarmupReport::steady);
  py::class_<LoadReport>(module, "LoadReport",
                         "The choices of a load, and the time of each stage in milliseconds.")
      .def_readonly("engine", &LoadReport::engine)
      .def_readonly("runtime", &LoadReport::runtime)
      .def_readonly("artifact", &LoadReport::artifact)
      .def_readonly("device", &LoadReport::device)
      .def_readonly("chosen", &LoadReport::chosen)
      .def_readonly("proof", &LoadReport::proof)
      .def_readonly("threads", &LoadReport::threads)
      .def_readonly("read_ms", &LoadReport::read_ms)
      .def_readonly("load_ms", &LoadReport::load_ms)
      .def_readonly("warmup_ms", &LoadReport::warmup_ms)
      .def_readonly("total_ms", &LoadReport::total_ms)
      .def_readonly("warmup", &LoadReport::warmup)
      .def_readonly("op_libraries", &LoadReport::op_libraries)
      .def_readonly("notes", &LoadReport::notes);
}

}  // namespace

void bind_model(py::module_& module) {
  bind_load_options(module);
  bind_load_report(module);
  py::class_<BoundSession>(module, "Session", "The state of one caller.")
      .def("_call", [](BoundSession& self, const py::object& model, const std::string& method,
                       const py::tuple& args,
                       const py::dict& kwargs) { return self.call(model, method, args, kwargs); });
  py::class_<BoundModel>(module, "Model", "A loaded model; see isthmus.runtime.Model.")
      .def(py::init(&load), py::arg("path"), py::arg("options"))
      .def("__call__",
           [](const py::object& self, const py::args& args, const py::kwargs& kwargs) {
             return self.cast<BoundModel&>().call(self, "forward", args, kwargs);
           })
      .def("_call",
           [](const py::object& self, const std::string& method, const py::tuple& args,
              const py::dict& kwargs) {
             return self.cast<BoundModel&>().call(self, method, args, kwargs);
           })
      .def(
          "ready", [](const BoundModel& self) { return self.model().ready(); },
          "Returns True when the warm-up is over; raises ExecutionError when it failed.")
      .def(
          "wait_until_ready", [](const BoundModel& self) { self.model().wait_until_ready(); },
          py::call_guard<py::gil_scoped_release>(),
          "Waits until the warm-up is over; raises ExecutionError when it failed.")
      .def_property_readonly("load_report",
                             [](const BoundModel& self) { return self.model().load_report(); })
      .def_property("timeout", &BoundModel::timeout, &BoundModel::set_timeout,
                    "Seconds after which a call is stopped; 0: no limit. Engines that cannot raise "
                    "InvalidInput.")
      .def_property_readonly("methods",
                             [](const BoundModel& self) { return self.model().methods(); })
      .def_property_readonly("stateful",
                             [](const BoundModel& self) { return self.model().stateful(); })
      .def_property_readonly(
          "device", [](const BoundModel& self) { return to_string(self.model().device()); })
      .def("_session", [](const BoundModel& self) { return std::make_unique<BoundSession>(self); });
}

}  // namespace isthmus::bindings

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include "bindings/bindings.h"
#include "bindings/call.h"
#include "isthmus/error.h"
#include "isthmus/model.h"

namespace py = pybind11;

namespace isthmus::bindings {
namespace {

Trust parse_trust(const std::string& text) {
  if (text == "data") return Trust::kData;
  if (text == "graph") return Trust::kGraph;
  if (text == "native") return Trust::kNative;
  throw InvalidInput("trust \"" + text + "\": expected data, graph or native");
}

Optimize parse_optimize(const std::string& text) {
  if (text == "auto") return Optimize::kAuto;
  if (text == "none") return Optimize::kNone;
  if (text == "freeze") return Optimize::kFreeze;
  if (text == "inference") return Optimize::kInference;
  throw InvalidInput("optimize \"" + text + "\": expected auto, none, freeze or inference");
}

std::unique_ptr<BoundModel> load(const std::filesystem::path& path, std::string engine,
                                 std::string device, int threads, bool warmup,
                                 bool warmup_in_background, bool mmap, const std::string& trust,
                                 std::vector<std::filesystem::path> op_libraries,
                                 const std::string& optimize, std::string artifact,
                                 std::map<std::string, std::string> engine_options,
                                 std::filesystem::path record, std::int64_t record_limit) {
  LoadOptions options{.engine = std::move(engine),
                      .artifact = std::move(artifact),
                      .device = std::move(device),
                      .threads = threads,
                      .warmup = warmup,
                      .warmup_in_background = warmup_in_background,
                      .few_calls = false,
                      .mmap = mmap,
                      .trust = parse_trust(trust),
                      .optimize = parse_optimize(optimize),
                      .op_libraries = std::move(op_libraries),
                      .engine_path = {},
                      .engine_options = std::move(engine_options),
                      .record = std::move(record),
                      .record_limit = record_limit};
  const py::gil_scoped_release release;
  return std::make_unique<BoundModel>(Model::load(path, options));
}

void bind_load_report(py::module_& module) {
  py::class_<WarmupReport>(module, "WarmupReport", "How the warm-up of one shape went.")
      .def_readonly("golden", &WarmupReport::golden)
      .def_readonly("calls", &WarmupReport::calls)
      .def_readonly("first_ms", &WarmupReport::first_ms)
      .def_readonly("steady_ms", &WarmupReport::steady_ms)
      .def_readonly("steady", &WarmupReport::steady);
  py::class_<LoadReport>(module, "LoadReport", "Where the time of a load went; milliseconds.")
      .def_readonly("engine", &LoadReport::engine)
      .def_readonly("runtime", &LoadReport::runtime)
      .def_readonly("artifact", &LoadReport::artifact)
      .def_readonly("device", &LoadReport::device)
      .def_readonly("chosen", &LoadReport::chosen)
      .def_readonly("threads", &LoadReport::threads)
      .def_readonly("read_ms", &LoadReport::read_ms)
      .def_readonly("load_ms", &LoadReport::load_ms)
      .def_readonly("warmup_ms", &LoadReport::warmup_ms)
      .def_readonly("total_ms", &LoadReport::total_ms)
      .def_readonly("warmup", &LoadReport::warmup)
      .def_readonly("notes", &LoadReport::notes);
}

}  // namespace

void bind_model(py::module_& module) {
  bind_load_report(module);
  py::class_<BoundSession>(module, "Session", "A caller's own state.")
      .def("_call", [](BoundSession& self, const py::object& model, const std::string& method,
                       const py::tuple& args,
                       const py::dict& kwargs) { return self.call(model, method, args, kwargs); });
  py::class_<BoundModel>(module, "Model", "A loaded model; see isthmus.runtime.Model.")
      .def(py::init(&load), py::arg("path"), py::kw_only(), py::arg("engine"), py::arg("device"),
           py::arg("threads"), py::arg("warmup"), py::arg("warmup_in_background"), py::arg("mmap"),
           py::arg("trust"), py::arg("op_libraries"), py::arg("optimize"), py::arg("artifact"),
           py::arg("engine_options"), py::arg("record") = std::filesystem::path{},
           py::arg("record_limit") = 1000)
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
          "Whether the warm-up is over; raises ExecutionError when it failed.")
      .def(
          "wait_until_ready", [](const BoundModel& self) { self.model().wait_until_ready(); },
          py::call_guard<py::gil_scoped_release>(),
          "Returns when the warm-up is over; raises ExecutionError when it failed.")
      .def_property_readonly("load_report",
                             [](const BoundModel& self) { return self.model().load_report(); })
      .def_property_readonly("methods",
                             [](const BoundModel& self) { return self.model().methods(); })
      .def_property_readonly("stateful",
                             [](const BoundModel& self) { return self.model().stateful(); })
      .def_property_readonly(
          "device", [](const BoundModel& self) { return to_string(self.model().device()); })
      .def("_session", [](const BoundModel& self) { return std::make_unique<BoundSession>(self); });
}

}  // namespace isthmus::bindings

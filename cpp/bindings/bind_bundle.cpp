#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <span>

#include "bindings/bindings.h"
#include "isthmus/exported_program.h"
#include "isthmus/identify.h"
#include "isthmus/scan.h"

namespace py = pybind11;

namespace isthmus::bindings {
namespace {

std::span<const std::byte> span_of(const py::bytes& bytes) {
  const std::string_view view(bytes);
  return {reinterpret_cast<const std::byte*>(view.data()), view.size()};
}

ArchiveScan scan(const py::bytes& archive, const std::set<std::string>& namespaces) {
  const auto bytes = span_of(archive);
  const py::gil_scoped_release release;
  return scan_torchscript(bytes, namespaces);
}

ExportedScan scan_program(const py::bytes& archive, const std::set<std::string>& namespaces) {
  const auto bytes = span_of(archive);
  const py::gil_scoped_release release;
  return read_exported_program(bytes, namespaces);
}

OnnxScan scan_graph(const py::bytes& file, const std::set<std::string>& files,
                    const std::set<std::string>& domains) {
  const auto bytes = span_of(file);
  const py::gil_scoped_release release;
  return scan_onnx(bytes, files, domains);
}

}  // namespace

void bind_bundle(py::module_& module) {
  py::class_<IdentifiedFile>(module, "IdentifiedFile", "The kind of a file, judged by its content.")
      .def_readonly("kind", &IdentifiedFile::kind)
      .def_readonly("advice", &IdentifiedFile::advice);
  module.def("identify_file", &identify_file, py::arg("path"),
             "Identifies a file or folder by its content. Executes nothing.");

  py::class_<Finding>(module, "Finding", "A finding of a scan, and its place.")
      .def_readonly("what", &Finding::what)
      .def_readonly("where", &Finding::where)
      .def_readonly("refused", &Finding::refused)
      .def_readonly("kind", &Finding::kind)
      .def("__repr__",
           [](const Finding& finding) { return finding.what + " (" + finding.where + ")"; });
  py::class_<ArchiveScan>(module, "ArchiveScan", "The content of a TorchScript archive.")
      .def_readonly("format", &ArchiveScan::format)
      .def_readonly("file_format_version", &ArchiveScan::file_format_version)
      .def_readonly("operators", &ArchiveScan::operators)
      .def_readonly("code", &ArchiveScan::code)
      .def_readonly("unknown_namespaces", &ArchiveScan::unknown_namespaces)
      .def_readonly("findings", &ArchiveScan::findings)
      .def_property_readonly("refused", &ArchiveScan::refused)
      .def("describe", &ArchiveScan::describe);
  module.def("scan_torchscript", &scan, py::arg("archive"),
             py::arg("allowed_namespaces") = std::set<std::string>(),
             "Scans the bytes of a TorchScript archive. Executes nothing.");
  py::class_<ExportedScan>(module, "ExportedScan", "The content of an exported program.")
      .def_property_readonly("torch_version",
                             [](const ExportedScan& scan) { return scan.program.torch_version; })
      .def_property_readonly("schema_version",
                             [](const ExportedScan& scan) {
                               return std::pair(scan.program.schema_major,
                                                scan.program.schema_minor);
                             })
      .def_property_readonly("graph",
                             [](const ExportedScan& scan) { return scan.program.graph_text(); })
      .def_property_readonly("tensors",
                             [](const ExportedScan& scan) {
                               std::vector<std::string> names;
                               for (const auto& [name, tensor] : scan.program.tensors)
                                 names.push_back(name);
                               return names;
                             })
      .def_readonly("operators", &ExportedScan::operators)
      .def_readonly("unknown_namespaces", &ExportedScan::unknown_namespaces)
      .def_readonly("findings", &ExportedScan::findings)
      .def_property_readonly("refused", &ExportedScan::refused)
      .def("describe", &ExportedScan::describe);
  module.def("scan_exported_program", &scan_program, py::arg("archive"),
             py::arg("allowed_namespaces") = std::set<std::string>(),
             "Scans the bytes of a program that torch.export.save wrote. Executes nothing.");
  py::class_<OnnxScan>(module, "OnnxScan", "The content of an ONNX file.")
      .def_readonly("ir_version", &OnnxScan::ir_version)
      .def_readonly("opsets", &OnnxScan::opsets)
      .def_readonly("operators", &OnnxScan::operators)
      .def_readonly("inputs", &OnnxScan::inputs)
      .def_readonly("outputs", &OnnxScan::outputs)
      .def_readonly("external_files", &OnnxScan::external_files)
      .def_readonly("findings", &OnnxScan::findings)
      .def_property_readonly("refused", &OnnxScan::refused)
      .def("describe", &OnnxScan::describe);
  module.def("scan_onnx", &scan_graph, py::arg("file"),
             py::arg("allowed_files") = std::set<std::string>(),
             py::arg("allowed_domains") = std::set<std::string>(),
             "Scans the bytes of an ONNX file. Executes nothing.");
}

}  // namespace isthmus::bindings

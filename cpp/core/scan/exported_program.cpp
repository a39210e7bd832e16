#include "isthmus/exported_program.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "core/files/json_reader.h"
#include "core/files/zip.h"
#include "core/scan/archive_records.h"
#include "core/scan/exported_graph.h"
#include "core/text.h"

namespace isthmus {
namespace {

using Bytes = std::span<const std::byte>;
using detail::JsonReader;

constexpr std::size_t kMaxEntries = 1 << 20;
constexpr std::uint64_t kMaxJson = 256u << 20;  // bytes of one JSON document
constexpr std::int64_t kLargest = INT64_MAX;
constexpr std::size_t kMaxDimensions = 64;

/// The bytes of an element, by the dtype's code in the schema (ScalarType of schema.py); 0 for one
/// that is unknown.
std::uint64_t element_size(std::int64_t dtype) {
  switch (dtype) {
    case 1:   // uint8
    case 2:   // int8
    case 12:  // bool
    case 29:  // float8, four kinds and their scale
    case 30:
    case 31:
    case 32:
    case 33:
      return 1;
    case 3:   // int16
    case 6:   // float16
    case 13:  // bfloat16
    case 28:  // uint16
      return 2;
    case 4:   // int32
    case 7:   // float32
    case 9:   // complex32
    case 34:  // uint32
      return 4;
    case 5:   // int64
    case 8:   // float64
    case 10:  // complex64
    case 35:  // uint64
      return 8;
    case 11:  // complex128
      return 16;
    default:
      return 0;
  }
}

constexpr std::int64_t kStrided = 7;  // of Layout in schema.py

/// Reads one archive. Records are identified by their names without the top folder.
class ProgramReader {
 public:
  ProgramReader(Bytes archive, const std::set<std::string>& allowed_namespaces)
      : archive_(archive), judge_(scan_, allowed_namespaces) {}

  ExportedScan run() {
    if (read_container()) {
      try {
        read_program();
      } catch (const detail::JsonError& error) {
        refuse("format", error.what(), where_);
      }
    }
    return std::move(scan_);
  }

 private:
  void refuse(const char* kind, std::string what, std::string where = "archive") {
    judge_.refuse(kind, std::move(what), std::move(where));
  }

  bool read_container() {
    index_ = detail::read_zip_index(archive_, {.allow_deflate = false, .max_entries = kMaxEntries});
    const auto report = [this](const char* kind, std::string what, std::string where) {
      refuse(kind, std::move(what), std::move(where));
    };
    for (auto& [name, entry] : detail::records_in_folder(index_, report))
      records_.emplace(std::move(name), entry);
    if (!index_.faults.empty()) return false;
    if (find_model() && !scan_.refused()) return true;
    return false;
  }

  /// Finds the only model of the archive.
  bool find_model() {
    constexpr std::string_view kModels = "models/";
    constexpr std::string_view kJson = ".json";
    for (const auto& [name, entry] : records_) {
      if (name.starts_with("data/aotinductor/")) {
        refuse("format", "it is an AOTInductor package, which is native code", entry->name);
        return false;
      }
      if (!name.starts_with(kModels) || !name.ends_with(kJson)) continue;
      if (!model_.empty()) {
        refuse("format", "it holds more than one program; save each into a file of its own");
        return false;
      }
      model_ = name.substr(kModels.size(), name.size() - kModels.size() - kJson.size());
    }
    if (!model_.empty()) return true;
    refuse(
        "format",
        records_.contains("serialized_exported_program.json")
            ? "it is in the format that torch 2.8 and older wrote; load it with torch.export.load "
              "and save it again"
            : "it is no program of torch.export.save: it has no models/NAME.json");
    return false;
  }

  /// Returns a document; the caller keeps it while it reads.
  nlohmann::json parse(const std::string& name) {
    where_ = name;
    const auto record = records_.find(name);
    if (record == records_.end()) throw detail::JsonError("it is missing");
    const detail::ZipEntry& entry = *record->second;
    if (entry.size > kMaxJson) throw detail::JsonError("it is larger than 256 MiB");
    const Bytes bytes = detail::stored_bytes(archive_, entry);
    if (!detail::crc_matches(bytes, entry)) throw detail::JsonError("its checksum does not match");
    return detail::parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }

  void read_program() {
    const std::string model = "models/" + model_ + ".json";
    const nlohmann::json document = parse(model);
    const JsonReader root(document, "");
    read_version(root);
    if (scan_.refused()) return;
    const JsonReader module = root.at("graph_module");
    detail::GraphNames names;
    scan_.program.graph = detail::read_program_graph(module.at("graph"), judge_, names);
    read_tensors("weights");
    read_tensors("constants");
    where_ = model;
    read_inputs(module.at("signature").at("input_specs"), names);
    read_outputs(module.at("signature").at("output_specs"), names);
  }

  void read_version(const JsonReader& root) {
    const JsonReader version = root.at("schema_version");
    scan_.program.schema_major = version.at("major").integer(0, kLargest);
    scan_.program.schema_minor = version.at("minor").integer(0, kLargest);
    if (const auto torch = root.find("torch_version")) scan_.program.torch_version = torch->name();
    if (scan_.program.schema_major != kExportSchemaMajor)
      refuse("format", "it has version " + std::to_string(scan_.program.schema_major) + "." +
                           std::to_string(scan_.program.schema_minor) +
                           " of torch's export schema (written by torch " +
                           scan_.program.torch_version + "), and " +
                           std::to_string(kExportSchemaMajor) +
                           " is read here: load it in Python with a torch that reads it, and "
                           "export it again");
  }

  /// Reads the list of weights or constants and checks that each tensor lies within its record.
  void read_tensors(const std::string& kind) {
    const std::string folder = "data/" + kind + "/";
    const nlohmann::json document = parse(folder + model_ + "_" + kind + "_config.json");
    for (const auto& [name, entry] : JsonReader(document, "").at("config").members()) {
      if (entry.at("use_pickle").boolean()) {
        pickled_.insert(name);
        continue;
      }
      ProgramTensor tensor = read_tensor(entry, folder);
      if (!scan_.program.tensors.emplace(name, std::move(tensor)).second)
        entry.fail("a name that is not among the weights");
    }
  }

  ProgramTensor read_tensor(const JsonReader& entry, const std::string& folder) {
    const JsonReader path_name = entry.at("path_name");
    const auto record = records_.find(folder + path_name.name());
    if (record == records_.end()) path_name.fail("the name of a record in " + folder);
    const JsonReader meta = entry.at("tensor_meta");
    ProgramTensor tensor;
    tensor.record = record->second->offset;
    tensor.record_size = record->second->size;
    tensor.dtype = meta.at("dtype").integer(0, kLargest);
    if (meta.at("layout").integer(0, kLargest) != kStrided) meta.at("layout").fail("7 (strided)");
    for (const JsonReader& size : meta.at("sizes").list())
      tensor.sizes.push_back(size.at("as_int").integer(0, kLargest));
    for (const JsonReader& stride : meta.at("strides").list())
      tensor.strides.push_back(stride.at("as_int").integer(0, kLargest));
    tensor.offset = meta.at("storage_offset").at("as_int").integer(0, kLargest);
    if (tensor.sizes.size() != tensor.strides.size() || tensor.sizes.size() > kMaxDimensions)
      meta.at("strides").fail("a stride for each of at most 64 sizes");
    if (!lies_within(tensor)) meta.fail("a tensor that lies within its record");
    return tensor;
  }

  static bool lies_within(const ProgramTensor& tensor) {
    const std::uint64_t bytes = element_size(tensor.dtype);
    if (bytes == 0) return false;
    const std::uint64_t elements = tensor.record_size / bytes;
    std::uint64_t last = static_cast<std::uint64_t>(tensor.offset);
    if (last > elements) return false;
    if (std::find(tensor.sizes.begin(), tensor.sizes.end(), 0) != tensor.sizes.end()) return true;
    for (std::size_t i = 0; i < tensor.sizes.size(); ++i) {
      const auto steps = static_cast<std::uint64_t>(tensor.sizes[i] - 1);
      const auto stride = static_cast<std::uint64_t>(tensor.strides[i]);
      std::uint64_t reach = 0;
      if (__builtin_mul_overflow(steps, stride, &reach) || reach > elements) return false;
      last += reach;
      if (last > elements) return false;
    }
    return last < elements;
  }

  void read_inputs(const JsonReader& specs, const detail::GraphNames& names) {
    const auto list = specs.list();
    const auto& inputs = scan_.program.graph.inputs;
    if (list.size() != inputs.size()) specs.fail("one entry for each input of the graph");
    for (std::size_t i = 0; i < list.size(); ++i) {
      const auto members = list[i].members();
      if (members.size() != 1) list[i].fail("an object with one member, the kind of the input");
      const auto& [kind, spec] = members.front();
      if (kind == "user_input" || kind == "constant_input") {
        scan_.program.inputs.push_back({});
        continue;
      }
      const char* key = kind == "parameter"         ? "parameter_name"
                        : kind == "buffer"          ? "buffer_name"
                        : kind == "tensor_constant" ? "tensor_constant_name"
                                                    : nullptr;
      if (key == nullptr) list[i].fail("a user input, a parameter, a buffer or a constant tensor");
      const JsonReader name = spec.at(key);
      if (inputs[i].kind != ProgramValue::Kind::kSlot ||
          slot_of(spec.at("arg").at("name"), names) != inputs[i].integer)
        list[i].fail("the graph's input at the same place");
      scan_.program.inputs.push_back({ProgramInput::Kind::kTensor, name.name()});
      if (pickled_.contains(name.name())) {
        refuse("pickle",
               "the tensor \"" + name.name() +
                   "\" is stored as a pickle, which C++ does not read; make it a plain tensor",
               where_);
      } else if (!scan_.program.tensors.contains(name.name())) {
        name.fail("the name of a stored tensor");
      }
    }
  }

  void read_outputs(const JsonReader& specs, const detail::GraphNames& names) {
    const auto list = specs.list();
    if (list.size() != scan_.program.graph.outputs.size())
      specs.fail("one entry for each output of the graph");
    for (const JsonReader& entry : list) {
      const auto members = entry.members();
      if (members.size() != 1) entry.fail("an object with one member, the kind of the output");
      const auto& [kind, spec] = members.front();
      using Kind = ProgramOutput::Kind;
      if (kind == "user_output") {
        scan_.program.outputs.push_back({});
      } else if (kind == "buffer_mutation") {
        const JsonReader name = spec.at("buffer_name");
        if (!scan_.program.tensors.contains(name.name())) name.fail("the name of a stored buffer");
        scan_.program.outputs.push_back({Kind::kBuffer, name.name()});
      } else if (kind == "user_input_mutation") {
        const JsonReader name = spec.at("user_input_name");
        (void)slot_of(name, names);
        scan_.program.outputs.push_back({Kind::kInput, name.name()});
      } else {
        entry.fail("a user output, or the new value of a buffer or of an input");
      }
    }
  }

  static std::int64_t slot_of(const JsonReader& name, const detail::GraphNames& names) {
    const auto known = names.slots.find(name.name());
    if (known == names.slots.end()) name.fail("the name of a value of the graph");
    return static_cast<std::int64_t>(known->second);
  }

  Bytes archive_;
  ExportedScan scan_;
  detail::OperatorJudge judge_;
  detail::ZipIndex index_;
  std::map<std::string, const detail::ZipEntry*> records_;
  std::set<std::string> pickled_;
  std::string model_;
  std::string where_ = "archive";  ///< the record that is read
};

}  // namespace

bool ExportedScan::refused() const noexcept {
  return any_refused(findings);
}

std::string ExportedScan::describe() const {
  return describe_refused(findings);
}

ExportedScan read_exported_program(std::span<const std::byte> archive,
                                   const std::set<std::string>& allowed_namespaces) {
  return ProgramReader(archive, allowed_namespaces).run();
}

}  // namespace isthmus

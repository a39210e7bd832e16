#include <algorithm>
#include <array>
#include <optional>

#include "isthmus/scan.h"

namespace isthmus {
namespace {

using Bytes = std::span<const std::byte>;

constexpr int kMaxDepth = 64;

/// The numbers of the fields that are read, by message, as in onnx.proto.
namespace field {
namespace model {
constexpr std::uint64_t kIrVersion = 1, kGraph = 7, kOpset = 8, kTraining = 20, kFunctions = 25;
}
namespace opset {
constexpr std::uint64_t kDomain = 1, kVersion = 2;
}
namespace graph {
constexpr std::uint64_t kNode = 1, kInitializer = 5, kInput = 11, kOutput = 12, kSparse = 15;
}
namespace function {
constexpr std::uint64_t kName = 1, kNode = 7, kDomain = 10, kAttribute = 11;
}
namespace node {
constexpr std::uint64_t kName = 3, kType = 4, kAttribute = 5, kDomain = 7;
}
namespace attribute {
constexpr std::uint64_t kTensor = 5, kGraph = 6, kTensors = 10, kGraphs = 11, kSparse = 22,
                        kSparses = 23;
}
namespace tensor {
constexpr std::uint64_t kName = 8, kExternal = 13;
}
namespace sparse {
constexpr std::uint64_t kValues = 1, kIndices = 2;
}
namespace entry {
constexpr std::uint64_t kKey = 1, kValue = 2;
}
namespace value_info {
constexpr std::uint64_t kName = 1;
}
}  // namespace field

/// Thrown when the content is not a protocol buffer.
struct Malformed {};

/// The encoding of a field. Other encodings are refused.
enum class Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

/// One field of a message: an integer, or the bytes of a text, a message or packed numbers.
struct Field {
  std::uint64_t number = 0;
  Wire wire = Wire::kVarint;
  std::uint64_t value = 0;
  Bytes bytes;
};

class Message {
 public:
  explicit Message(Bytes bytes) : rest_(bytes) {}

  /// Returns the next field, or nullopt at the end. @throws Malformed.
  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    const std::uint64_t tag = varint();
    Field part{tag >> 3, static_cast<Wire>(tag & 7), 0, {}};
    // Other readers drop the bits above 32, and would see another field.
    if (part.number == 0 || tag > UINT32_MAX) throw Malformed();
    switch (part.wire) {
      case Wire::kVarint:
        part.value = varint();
        break;
      case Wire::kFixed64:
        (void)take(8);
        break;
      case Wire::kBytes:
        part.bytes = take(varint());
        break;
      case Wire::kFixed32:
        (void)take(4);
        break;
      default:
        throw Malformed();
    }
    return part;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<std::uint64_t>(take(1).front());
      value |= (byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    throw Malformed();
  }

  Bytes take(std::uint64_t count) {
    if (count > rest_.size()) throw Malformed();
    const Bytes taken = rest_.first(static_cast<std::size_t>(count));
    rest_ = rest_.subspan(static_cast<std::size_t>(count));
    return taken;
  }

  Bytes rest_;
};

std::string text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Returns the text field with this number, the last one of several, as all protocol buffer readers
/// do. To them, a field with another encoding is another field.
std::string text_field(Bytes bytes, std::uint64_t number) {
  Message message(bytes);
  std::string last;
  while (const auto part = message.next())
    if (part->number == number && part->wire == Wire::kBytes) last = text(part->bytes);
  return last;
}

/// Returns true for bytes that ONNX Runtime reads as its own format.
bool is_ort_format(Bytes file) {
  constexpr std::string_view kMark = "ORTM";
  return file.size() >= 8 && text(file.subspan(4, kMark.size())) == kMark;
}

class OnnxScanner {
 public:
  OnnxScanner(const std::set<std::string>& files, const std::set<std::string>& domains)
      : files_(files), domains_(domains) {}

  OnnxScan run(Bytes file) {
    if (is_ort_format(file)) {
      refuse("format",
             "it is a model in ONNX Runtime's own format, which is not scanned; pass ONNX", "");
      return std::move(result_);
    }
    try {
      read_model(file);
    } catch (const Malformed&) {
      refuse("format", "it is no ONNX file: its protocol buffer ends in the middle of a field", "");
    }
    if (result_.findings.empty() && result_.ir_version == 0)
      refuse("format", "it is no ONNX file: it has no ir_version", "");
    for (const auto& [domain, where] : used_domains_) judge_domain(domain, where);
    return std::move(result_);
  }

 private:
  void refuse(const std::string& kind, const std::string& what, const std::string& where) {
    result_.findings.push_back({what, where.empty() ? "the model" : where, true, kind});
  }

  void read_model(Bytes bytes) {
    Message message(bytes);
    while (const auto part = message.next()) {
      if (part->number == field::model::kIrVersion)
        result_.ir_version = static_cast<std::int64_t>(part->value);
      if (part->number == field::model::kOpset) read_opset(part->bytes);
      if (part->number == field::model::kGraph) read_graph(part->bytes, 0, "graph");
      if (part->number == field::model::kFunctions) read_function(part->bytes);
      if (part->number == field::model::kTraining)
        refuse("format", "it carries a training graph, which isthmus does not run",
               "training_info");
    }
  }

  void read_opset(Bytes bytes) {
    std::int64_t version = 0;
    Message message(bytes);
    const std::string domain = text_field(bytes, field::opset::kDomain);
    while (const auto part = message.next()) {
      if (part->number == field::opset::kVersion) version = static_cast<std::int64_t>(part->value);
    }
    result_.opsets[domain == "ai.onnx" ? "" : domain] = version;
  }

  void read_function(Bytes bytes) {
    const std::string name = text_field(bytes, field::function::kName);
    functions_.insert({text_field(bytes, field::function::kDomain), name});
    Message message(bytes);
    while (const auto part = message.next()) {
      if (part->number == field::function::kNode) read_node(part->bytes, 0, "function " + name);
      if (part->number == field::function::kAttribute)
        read_attribute(part->bytes, 0, "function " + name);
    }
  }

  void read_graph(Bytes bytes, int depth, const std::string& where) {
    if (depth > kMaxDepth)
      return refuse("format", "its graphs are nested more than 64 deep", where);
    std::set<std::string> initializers;
    std::vector<std::string> inputs;
    Message message(bytes);
    while (const auto part = message.next()) {
      switch (part->number) {
        case field::graph::kNode:
          read_node(part->bytes, depth, where);
          break;
        case field::graph::kInitializer:
          initializers.insert(text_field(part->bytes, field::tensor::kName));
          read_tensor(part->bytes, where);
          break;
        case field::graph::kSparse:
          read_sparse(part->bytes, where);
          break;
        case field::graph::kInput:
          inputs.push_back(text_field(part->bytes, field::value_info::kName));
          break;
        case field::graph::kOutput:
          if (depth == 0)
            result_.outputs.push_back(text_field(part->bytes, field::value_info::kName));
          break;
        default:
          break;
      }
    }
    if (depth > 0) return;
    for (std::string& name : inputs)
      if (!initializers.contains(name)) result_.inputs.push_back(std::move(name));
  }

  void read_node(Bytes bytes, int depth, const std::string& parent) {
    std::string domain = text_field(bytes, field::node::kDomain);
    if (domain == "ai.onnx") domain.clear();
    const std::string type = text_field(bytes, field::node::kType);
    const std::string where = parent + ": node " + text_field(bytes, field::node::kName);
    const std::string label = domain.empty() ? type : domain + "::" + type;
    ++result_.operators[label];
    if (domain == "com.microsoft" && (type == "EPContext" || type == "PythonOp"))
      refuse("operator", "operator " + label + " carries a program of its own", where);
    used_nodes_.insert({domain, type});
    used_domains_.emplace(domain, where);
    Message message(bytes);
    while (const auto part = message.next())
      if (part->number == field::node::kAttribute) read_attribute(part->bytes, depth, where);
  }

  void read_attribute(Bytes bytes, int depth, const std::string& where) {
    Message message(bytes);
    while (const auto part = message.next()) {
      if (part->number == field::attribute::kTensor || part->number == field::attribute::kTensors)
        read_tensor(part->bytes, where);
      if (part->number == field::attribute::kGraph || part->number == field::attribute::kGraphs)
        read_graph(part->bytes, depth + 1, where);
      if (part->number == field::attribute::kSparse || part->number == field::attribute::kSparses)
        read_sparse(part->bytes, where);
    }
  }

  void read_sparse(Bytes bytes, const std::string& where) {
    Message message(bytes);
    while (const auto part = message.next())
      if (part->number == field::sparse::kValues || part->number == field::sparse::kIndices)
        read_tensor(part->bytes, where);
  }

  void read_tensor(Bytes bytes, const std::string& where) {
    Message message(bytes);
    while (const auto part = message.next()) {
      if (part->number != field::tensor::kExternal) continue;
      if (text_field(part->bytes, field::entry::kKey) != "location") continue;
      const std::string location = text_field(part->bytes, field::entry::kValue);
      if (!result_.external_files.insert(location).second || files_.contains(location)) continue;
      refuse("external_data",
             "its weights are in \"" + location +
                 "\", which is no file of this artifact: nothing outside of the bundle is read",
             where);
    }
  }

  void judge_domain(const std::string& domain, const std::string& where) {
    static constexpr std::array<std::string_view, 3> kKnown{"", "ai.onnx.ml", "com.microsoft"};
    if (std::find(kKnown.begin(), kKnown.end(), domain) != kKnown.end()) return;
    if (domains_.contains(domain)) return;
    for (const auto& [used, type] : used_nodes_)
      if (used == domain && !functions_.contains({used, type}))
        return refuse("operator",
                      "operator " + domain + "::" + type +
                          " is neither ONNX's nor ONNX Runtime's; name the library that brings it "
                          "(op_libraries, --op-library)",
                      where);
  }

  const std::set<std::string>& files_;
  const std::set<std::string>& domains_;
  std::set<std::pair<std::string, std::string>> functions_;
  std::set<std::pair<std::string, std::string>> used_nodes_;
  std::map<std::string, std::string> used_domains_;  ///< where each was seen first
  OnnxScan result_;
};

}  // namespace

bool OnnxScan::refused() const noexcept {
  return any_refused(findings);
}

std::string OnnxScan::describe() const {
  return describe_refused(findings);
}

OnnxScan scan_onnx(std::span<const std::byte> file, const std::set<std::string>& allowed_files,
                   const std::set<std::string>& allowed_domains) {
  return OnnxScanner(allowed_files, allowed_domains).run(file);
}

}  // namespace isthmus

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "isthmus/export.h"
#include "isthmus/scan.h"

namespace isthmus {

struct ProgramGraph;

/// An argument or a result of an operator in an exported program. The numbers of dtypes, layouts
/// and memory formats are those of torch's export schema, which are not LibTorch's.
struct ProgramValue {
  enum class Kind {
    kNone,
    kSlot,  ///< a value of the graph: `integer` is its number, from 0
    kInt,
    kFloat,
    kBool,
    kComplex,
    kText,
    kDtype,
    kLayout,
    kMemoryFormat,
    kDevice,  ///< `text` is "cpu" or "cuda:0"
    kList,    ///< `items`
    kGraph,   ///< `graph`
  };
  Kind kind = Kind::kNone;
  std::int64_t integer = 0;  ///< also of a bool (0 or 1), a dtype, a layout and a memory format
  double real = 0;           ///< a float, or the real part of a complex number
  double imaginary = 0;
  std::string text{};
  std::vector<ProgramValue> items{};
  std::shared_ptr<const ProgramGraph> graph{};
};

/// An argument with the name that it has in the operator's schema; empty for an operator without
/// a schema.
struct ProgramArgument {
  std::string name;
  ProgramValue value;
};

/// One call of an operator.
struct ProgramNode {
  /// "aten::linear", "_operator::add" (on sizes and other numbers), "higher_order::cond" (with
  /// graphs as arguments).
  std::string op;
  std::string overload;  ///< "Tensor" of aten::add.Tensor; empty for "default"
  std::vector<ProgramArgument> arguments;
  std::vector<ProgramValue> results;  ///< kSlot, kNone, or kList of these
  std::string where;                  ///< "model.py:13", the user's source; empty when unknown
};

/// A graph of an exported program. Every slot is defined once, before it is used.
struct ProgramGraph {
  std::vector<ProgramValue> inputs;  ///< kSlot; another kind is a constant that calls repeat
  std::vector<ProgramNode> nodes;
  std::vector<ProgramValue> outputs;
  std::size_t slots = 0;  ///< the number of values
};

/// A tensor that is stored in the archive: a parameter, a buffer or a constant.
struct ProgramTensor {
  std::int64_t dtype = 0;  ///< of torch's export schema
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> strides;  ///< in elements
  std::int64_t offset = 0;            ///< in elements from the start of the record
  std::size_t record = 0;             ///< the position of the record in the archive, in bytes
  std::size_t record_size = 0;        ///< bytes; the tensor lies within the record
};

/// The source of an input of a program's graph.
struct ProgramInput {
  enum class Kind { kUser, kTensor };
  Kind kind = Kind::kUser;
  std::string name;  ///< of a stored tensor: "encoder.layer.0.weight"
};

/// The destination of an output of a program's graph.
struct ProgramOutput {
  enum class Kind {
    kUser,
    kBuffer,  ///< the value that a buffer has after the call
    kInput,   ///< the value that an input has after the call
  };
  Kind kind = Kind::kUser;
  std::string name;  ///< of the buffer, or of the input in the graph
};

/// A program that `torch.export.save` wrote.
struct ExportedProgram {
  std::string torch_version;      ///< of the torch that wrote it, such as "2.13.0+cpu"
  std::int64_t schema_major = 0;  ///< of torch's export schema
  std::int64_t schema_minor = 0;
  ProgramGraph graph;
  std::vector<ProgramInput> inputs;              ///< of the graph, in order
  std::vector<ProgramOutput> outputs;            ///< of the graph, in order
  std::map<std::string, ProgramTensor> tensors;  ///< by name

  /// Returns a line for each input and for each call, with the line of the user's source.
  [[nodiscard]] ISTHMUS_API std::string graph_text() const;
};

/// The content of an exported program, and what was found in it.
struct ExportedScan {
  ExportedProgram program;                        ///< complete when nothing is refused
  std::map<std::string, std::int64_t> operators;  ///< "aten::linear" -> calls in all graphs
  std::set<std::string> unknown_namespaces;       ///< operator namespaces that need a library
  std::vector<Finding> findings;                  ///< at most 1000 refusals
  [[nodiscard]] ISTHMUS_API bool refused() const noexcept;
  /// Returns a line for each refused finding.
  [[nodiscard]] ISTHMUS_API std::string describe() const;
};

/// The newest major version of torch's export schema that `read_exported_program` reads.
inline constexpr std::int64_t kExportSchemaMajor = 8;

/// Reads and scans a program that `torch.export.save` wrote, without executing anything. The
/// archive must be as torch writes it: stored records with distinct names, nothing overlaps, and
/// counts and sizes are limited. Of the archive only the graph and the raw tensors are read;
/// pickles are not. Operators must be on the list of pure ones (docs/security.md). Defects of the
/// archive become findings, not exceptions.
/// Source of the format: torch/_export/serde/schema.py and torch/export/pt2_archive of torch 2.13.
/// @param archive             the bytes of the file
/// @param allowed_namespaces  operator namespaces whose libraries the caller loads
ISTHMUS_API ExportedScan read_exported_program(
    std::span<const std::byte> archive, const std::set<std::string>& allowed_namespaces = {});

}  // namespace isthmus

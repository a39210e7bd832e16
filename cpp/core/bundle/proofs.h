#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/files/json_reader.h"
#include "isthmus/bundle.h"

namespace isthmus {

/// The conditions under which an engine runs an artifact. A verdict is about exactly these.
struct ProofKey {
  std::string engine;
  std::string device;   ///< device type
  std::string runtime;  ///< the runtime with its version
  /// The caller's options that may change answers, such as "optimize=freeze, precision=bf16".
  std::string options{};
};

/// The verdicts on the engines of a bundle. Those of the export are in the manifest. Those that
/// were reached on this machine are in proofs.json beside it, and come first.
class Proofs {
 public:
  struct Verdict {
    EngineProof proof;
    std::string origin;  ///< "at export" or "on this machine, 2026-01-31T12:00:00Z (proofs.json)"
  };

  Proofs() = default;

  /// Reads proofs.json. A missing file is an empty one, and so is a damaged one, which gets a note.
  explicit Proofs(const Bundle& bundle);

  /// Returns the verdict, or nullopt when this engine with this runtime was never tried.
  [[nodiscard]] std::optional<Verdict> find(const Artifact& artifact, const ProofKey& key) const;

  /// Returns true when the engine was tried on the artifact with some runtime, and never passed.
  [[nodiscard]] bool only_failed(const Artifact& artifact, const std::string& engine,
                                 const std::string& device) const;

  /// Adds a verdict of this machine, and writes it to proofs.json. Returns why it could not be
  /// written; empty when it was. The verdict counts in this object in both cases.
  std::string add(const Artifact& artifact, const ProofKey& key, EngineProof proof);

  /// Returns why an existing file is not used; empty otherwise.
  [[nodiscard]] const std::string& note() const noexcept { return note_; }

 private:
  struct Entry {
    std::string artifact;  ///< digest of its files and of the goldens
    std::string options;
    std::string created;
    EngineProof proof;
  };

  [[nodiscard]] std::string digest_of(const Artifact& artifact) const;
  void read();

  std::optional<Bundle> bundle_;
  std::vector<Entry> here_;  ///< of this machine, the latest last
  std::string note_;
};

namespace detail {

/// Returns the names of the inputs of all methods.
std::set<std::string> input_names(const Manifest& manifest);

/// Parses a verdict. @param inputs  see `input_names` @throws JsonError.
EngineProof parse_proof(const JsonReader& json, const std::set<std::string>& inputs);

}  // namespace detail
}  // namespace isthmus

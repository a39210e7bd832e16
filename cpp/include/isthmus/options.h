#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "isthmus/export.h"

namespace isthmus {

/// How far the caller trusts a bundle. Each artifact has the class that it needs.
enum class Trust : std::uint8_t {
  kData,    ///< only passive data: opens manifests and goldens, runs nothing
  kGraph,   ///< graphs of allow-listed, pure operators (the default)
  kNative,  ///< anything, native code and refused operators included: as running a program
};

/// Rewrites done at load, in memory; the file on disk stays portable.
enum class Optimize : std::uint8_t {
  kAuto,       ///< the engine's measured default
  kNone,       ///< run the artifact as it is
  kFreeze,     ///< fold parameters into the graph
  kInference,  ///< freeze, fuse and prepack for this machine
};

/// "data", "graph" or "native".
ISTHMUS_API std::string_view name(Trust trust) noexcept;
/// "auto", "none", "freeze" or "inference".
ISTHMUS_API std::string_view name(Optimize optimize) noexcept;

/// @throws InvalidInput naming the expected values.
ISTHMUS_API Trust parse_trust(std::string_view text);
/// @throws InvalidInput naming the expected values.
ISTHMUS_API Optimize parse_optimize(std::string_view text);

/// How to load a bundle. Defaults fit most services. Each member has an initializer: naming only
/// some of them draws no warning.
struct LoadOptions {
  std::string engine = "auto";  ///< "auto", or an engine's name such as "torchscript"
  std::string artifact{};       ///< name of one artifact; empty: the best that fits
  std::string device = "cpu";   ///< "cpu", "cuda", "cuda:1"; a contract, never a hint
  int threads = 0;              ///< intra-operator threads of each call; 0: leave as it is
  bool warmup = true;           ///< call the model at load until calls are steady
  /// `load` returns before the warm-up, which goes on beside the program: see `Model::ready`.
  bool warmup_in_background = false;
  /// Only a few calls are to come: an engine may leave out what pays off later only. Process-wide
  /// where the engine's runtime has it so, hence for programs that load one model and end.
  bool few_calls = false;
  /// Use weights where they lie in the bundle's files, if the format allows it: nothing is copied,
  /// and processes share them. Then these files may be replaced (renamed over) while the model is
  /// in use, and may not be written to in place. false: a copy of one's own.
  bool mmap = true;
  Trust trust = Trust::kGraph;  ///< what the bundle may do
  Optimize optimize = Optimize::kAuto;
  std::vector<std::filesystem::path> op_libraries{};    ///< custom operator libraries to open first
  std::vector<std::filesystem::path> engine_path{};     ///< folders searched for engines first
  std::map<std::string, std::string> engine_options{};  ///< as the engine documents them
  /// Folder to write each call's inputs and outputs to, for `isthmus replay`; empty: none.
  std::filesystem::path record{};
  std::int64_t record_limit = 1000;  ///< calls of this model that are recorded
};

/// Options of one call.
struct RunOptions {
  bool check_outputs = true;  ///< also check what the engine gave against the signature
};

}  // namespace isthmus

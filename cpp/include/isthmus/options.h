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
  kNative,  ///< anything, native code and refused operators too, like running a program
};

/// Rewrites of the artifact in memory when it is loaded. The file is not changed.
enum class Optimize : std::uint8_t {
  kAuto,       ///< the engine's measured default
  kNone,       ///< run the artifact as it is
  kFreeze,     ///< fold parameters into the graph
  kInference,  ///< freeze, fuse and prepack for this machine
};

/// What a load does with an engine that has no verdict for the artifact, the device and the version
/// of its runtime. One that failed is refused unless kAllow is given.
enum class Unproven : std::uint8_t {
  kProve,   ///< run it on the goldens, once; the verdict is kept in proofs.json (the default)
  kRefuse,  ///< do not take it
  kAllow,   ///< take it; and one that failed, when it is named or nothing else is left
};

/// What a call with values gets on which the engine gave other answers than the model when it was
/// proven: NaN, infinities, zeros, denormals, and larger numbers than it was proven on.
enum class Specials : std::uint8_t {
  kRefuse,  ///< InvalidInput that names the input, the value and its place (the default)
  kAllow,   ///< the engine's answer
};

/// Returns "data", "graph" or "native".
ISTHMUS_API std::string_view name(Trust trust) noexcept;
/// Returns "auto", "none", "freeze" or "inference".
ISTHMUS_API std::string_view name(Optimize optimize) noexcept;
/// Returns "prove", "refuse" or "allow".
ISTHMUS_API std::string_view name(Unproven unproven) noexcept;
/// Returns "refuse" or "allow".
ISTHMUS_API std::string_view name(Specials specials) noexcept;

/// Inverse of `name`. @throws InvalidInput that lists the expected names.
ISTHMUS_API Trust parse_trust(std::string_view text);
/// Inverse of `name`. @throws InvalidInput that lists the expected names.
ISTHMUS_API Optimize parse_optimize(std::string_view text);
/// Inverse of `name`. @throws InvalidInput that lists the expected names.
ISTHMUS_API Unproven parse_unproven(std::string_view text);
/// Inverse of `name`. @throws InvalidInput that lists the expected names.
ISTHMUS_API Specials parse_specials(std::string_view text);

/// Options of Model::load. The defaults suit most services. All members have initializers, so that
/// designated initializers of some of them cause no warning.
struct LoadOptions {
  std::string engine = "auto";  ///< "auto", or an engine's name such as "torchscript"
  std::string artifact{};       ///< name of one artifact; empty: the best that fits
  std::string device = "cpu";   ///< "cpu", "cuda" or "cuda:1"; never replaced by another device
  int threads = 0;              ///< intra-operator threads of each call; 0: the measured number of
                                ///< tuning.json, else the runtime's default
  bool warmup = true;           ///< call the model at load until calls are steady
  /// `load` returns before the warm-up, which runs on a thread of its own, see `Model::ready`.
  bool warmup_in_background = false;
  /// The program makes only a few calls, so that engines may omit work that pays off later. May
  /// apply to the whole process, so it is for programs that load one model.
  bool few_calls = false;
  /// Use weights in the pages of the bundle's files, if the format allows it: they are not copied,
  /// and processes share them. Such files may be replaced by renaming while the model is in use,
  /// but must not be written to. false: copy the weights.
  bool mmap = true;
  Trust trust = Trust::kGraph;  ///< what the bundle may do
  Optimize optimize = Optimize::kAuto;
  Unproven unproven = Unproven::kProve;  ///< what to do with an engine without a verdict
  /// What a call gets with values on which the engine is not proven.
  Specials specials = Specials::kRefuse;
  std::vector<std::filesystem::path> op_libraries{};  ///< custom operator libraries to open first
  /// Libraries of custom operators by namespace. One is opened where an artifact lists its
  /// namespace and `op_libraries` is empty; so is `operators/NAMESPACE.so` in a folder of engines.
  std::map<std::string, std::filesystem::path> installed_op_libraries{};
  std::vector<std::filesystem::path>
      engine_path{};  ///< folders that are searched first; must exist
  std::map<std::string, std::string> engine_options{};  ///< see docs/engines.md
  /// Folder for the inputs and outputs of each call, for `isthmus replay`; empty: none are written.
  std::filesystem::path record{};
  std::int64_t record_limit = 1000;  ///< number of calls that are recorded
};

/// Options of one call.
struct RunOptions {
  /// Check the engine's outputs against the signature. Their number is always checked.
  bool check_outputs = true;
  /// Seconds after which the call is stopped, waiting for its turn included; 0: no limit. Only for
  /// engines that can stop a call (`Model::can_stop`).
  double timeout = 0;
};

}  // namespace isthmus

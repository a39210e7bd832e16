#include "core/runtime/engine_limits.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "core/text.h"

namespace isthmus {
namespace {

struct Kind {
  std::string_view name;
  Special special;
  std::string_view text;
};

constexpr std::array<Kind, 6> kKinds{{
    {"nan", kSpecialNaN, "NaN"},
    {"inf", kSpecialInfinity, "infinities"},
    {"zero", kSpecialZero, "zeros"},
    {"negative_zero", kSpecialNegativeZero, "negative zeros"},
    {"denormal", kSpecialDenormal, "denormal numbers"},
    {"large", kSpecialLarge, "numbers beyond 2^62"},
}};

const Kind* find_kind(std::string_view name) {
  const auto* const kind =
      std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& k) { return k.name == name; });
  return kind == kKinds.end() ? nullptr : kind;
}

/// Returns the engines that passed on every value of an input, the first to try first.
std::vector<std::string> others_for(const Manifest& manifest, const EngineProof& proof,
                                    const std::string& input) {
  std::vector<std::string> engines;
  for (const Artifact& artifact : manifest.artifacts)
    for (const EngineProof& other : artifact.proofs)
      if (other.passed && other.engine != proof.engine && other.device == proof.device &&
          !other.values.contains(input) && !other.unproven.contains(input) &&
          std::find(engines.begin(), engines.end(), other.engine) == engines.end())
        engines.push_back(other.engine);
  return engines;
}

}  // namespace

std::vector<Signature> detail::with_limits(const Manifest& manifest, const EngineProof& proof,
                                           const std::string& origin) {
  std::vector<Signature> methods = manifest.methods;
  if (proof.values.empty() && proof.unproven.empty()) return methods;
  for (Signature& method : methods)
    for (ValueSpec& input : method.inputs) {
      const auto values = proof.values.find(input.name);
      const auto unproven = proof.unproven.find(input.name);
      if (values == proof.values.end() && unproven == proof.unproven.end()) continue;
      EngineLimit limit{proof.engine, origin, ""};
      if (values != proof.values.end()) limit.values = values->second;
      if (unproven != proof.unproven.end())
        for (const std::string& name : unproven->second)
          if (const Kind* kind = find_kind(name)) limit.specials |= kind->special;
      const auto others = others_for(manifest, proof, input.name);
      const std::string use = others.empty() ? "" : "use " + detail::joined(others) + ", or ";
      limit.advice = use + "load with specials=allow";
      input.limit = std::make_shared<const EngineLimit>(std::move(limit));
    }
  return methods;
}

void detail::narrow_sizes(const Manifest& manifest, const Artifact& artifact,
                          std::vector<Signature>& methods) {
  for (const auto& [name, range] : artifact.sizes) {
    std::vector<std::string> others;
    for (const Artifact& other : manifest.artifacts)
      if (!other.sizes.contains(name)) others.push_back(in_quotes(other.name));
    DimRange narrowed = range;
    narrowed.advice = "the artifact " + in_quotes(artifact.name) + " serves these sizes only; " +
                      (others.empty() ? "export with a format that serves the others too"
                                      : "load the artifact " + joined(others) + " for others");
    for (Signature& method : methods)
      if (const auto dim = method.dims.find(name); dim != method.dims.end()) dim->second = narrowed;
  }
}

std::vector<std::string> EngineProof::limits() const {
  std::vector<std::string> texts;
  for (const auto& [input, names] : unproven) {
    const std::string kinds = detail::joined(names, [](const std::string& name) {
      const Kind* kind = find_kind(name);
      return kind == nullptr ? name : std::string(kind->text);
    });
    texts.push_back("not proven for " + kinds + " in " + detail::in_quotes(input));
  }
  for (const auto& [input, range] : values)
    texts.push_back("proven for " + std::to_string(range.min) + " to " + std::to_string(range.max) +
                    " in " + detail::in_quotes(input) + " only");
  return texts;
}

}  // namespace isthmus

#include "engines/torch/fit.h"

#include <sys/utsname.h>

#include <algorithm>
#include <sstream>

#include "isthmus/machine.h"

namespace isthmus::torch_engine {

std::optional<std::string> machine_refusal(const Artifact& artifact) {
  const auto& required = artifact.requires_versions;
  const std::string remedy =
      "; export it again with `isthmus export --formats " + artifact.format +
      " --isa avx2` (portable) or on a machine like this one, or use another artifact";
  utsname system{};
  const std::string here = uname(&system) == 0 ? system.machine : "";
  const auto machine = required.find("machine");
  if (machine != required.end() && !here.empty() && machine->second != here)
    return "it is compiled for " + machine->second + ", and this machine is " + here + remedy;
  const auto isa = required.find("isa");
  if (isa == required.end()) return std::nullopt;
  const std::vector<std::string> present = this_machine().isa;
  std::istringstream words(isa->second);
  std::string missing;
  for (std::string word; words >> word;)
    if (std::find(present.begin(), present.end(), word) == present.end())
      missing += (missing.empty() ? "" : ", ") + word;
  if (missing.empty()) return std::nullopt;
  return "it is compiled for processors with " + isa->second + ", and this one lacks " + missing +
         remedy;
}

}  // namespace isthmus::torch_engine

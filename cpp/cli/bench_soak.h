#pragma once

#include <cstdint>
#include <vector>

#include "isthmus/model.h"

namespace isthmus::cli {

/// How `bench --soak` calls.
struct SoakOptions {
  std::int64_t calls = 0;  ///< at least, of all callers together; 0: not asked for
  int callers = 2;         ///< threads at once
};

/// Resident memory of a process that calls a model for long.
struct SoakResult {
  std::int64_t calls = 0;
  std::size_t goldens = 0;                   ///< that took turns
  std::vector<std::int64_t> resident_bytes;  ///< as loaded, then after each part of the calls
  double seconds = 0;

  /// Medians of the second and of the last quarter of the parts, bytes. The first quarter is not
  /// judged: what a runtime keeps for a shape that it has seen is no leak.
  [[nodiscard]] double early() const;
  [[nodiscard]] double late() const;
  [[nodiscard]] double growth() const { return late() - early(); }
  /// Growth that is noise: 4 MB, or 160 bytes for each call between the two quarters, if more.
  [[nodiscard]] double allowed() const;
};

/// Calls with the bundle's goldens in random order, from threads that come and go, each golden's
/// sequence in a session of its own.
/// @throws InvalidInput for a bundle without goldens, and what the first call threw that failed.
SoakResult run_soak(const Model& model, const SoakOptions& options);

}  // namespace isthmus::cli

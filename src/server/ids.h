// Names of requests and of what they produce.
#pragma once

#include <string>
#include <string_view>

namespace minimo::server {

// prefix + 24 hexadecimal digits, from a generator of this thread seeded by the system.
std::string NewId(std::string_view prefix);

// The text as it may stand in a header: printable ASCII, at most 200 characters, other bytes dropped.
std::string SafeHeaderValue(std::string_view text);

}  // namespace minimo::server

#pragma once

namespace minimo::testing {

// Bytes a second that the device reads of a stream of 8 GB (less, if less is free), the best of several grids: what
// floors of memory are taken from. 0 if it cannot be measured.
double ReadBandwidth();

}  // namespace minimo::testing

#pragma once

namespace mtia {

// Wait until autograd's device threads have let go of what they worked on. To be called without the interpreter's lock.
void settle_gradients();

}  // namespace mtia

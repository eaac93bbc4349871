// Says so where a password would travel in the clear.
(() => {
  "use strict";
  if (!window.isSecureContext) {
    document.getElementById("steward-insecure").hidden = false;
  }
})();

// Swagger UI over this server's own description. A key is kept in memory, as on the desk.

const form = document.getElementById("key-form");
let key = "";

const withKey = () => (key ? { Authorization: `Bearer ${key}` } : {});

async function show() {
  const answer = await fetch("openapi.json", { headers: withKey() });
  form.hidden = answer.status !== 401;
  if (!answer.ok) return;
  const interceptor = (request) => Object.assign(request, { headers: { ...withKey(), ...request.headers } });
  window.SwaggerUIBundle({ spec: await answer.json(), dom_id: "#reference", deepLinking: true, validatorUrl: null, requestInterceptor: interceptor });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  key = document.getElementById("key").value.trim();
  show();
});
show();

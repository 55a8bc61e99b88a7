// Shows the document of the server that the page comes from, in the theme of its other pages.
SwaggerUIBundle({
  url: "../openapi.json",
  dom_id: "#document",
  deepLinking: true,
  docExpansion: "none",
  defaultModelsExpandDepth: -1,  // hundreds of types; operations link to theirs
  defaultModelExpandDepth: 1,
  displayRequestDuration: true,
  filter: true,
  validatorUrl: null,  // the online validator would get the address of this server
});

const theme = localStorage.getItem("theme");
const isDark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.classList.toggle("dark-mode", isDark);

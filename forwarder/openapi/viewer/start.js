// Shows the document of the server that the page comes from.
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

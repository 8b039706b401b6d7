package org.apache.iceberg.rest;

import org.apache.iceberg.catalog.Namespace;
import org.junit.jupiter.api.AfterEach;

/** The compatibility kit's classes with what this catalog can do beyond their defaults. */
final class Kit {
  private Kit() {}

  static final class Tables extends RESTCompatibilityKitCatalogTests {
    @Override
    protected boolean supportsNestedNamespaces() {
      return true;
    }

    @Override
    protected boolean supportsNamesWithSlashes() {
      return true;
    }

    @Override
    protected boolean supportsNamesWithDot() {
      return true;
    }

    /** The kit's own cleaning knows no nested namespaces. */
    @AfterEach
    void dropAll() {
      catalog().listNamespaces().forEach(this::drop);
    }

    private void drop(Namespace namespace) {
      catalog().listNamespaces(namespace).forEach(this::drop);
      catalog().listTables(namespace).forEach(table -> catalog().dropTable(table, false));
      catalog().dropNamespace(namespace);
    }
  }

  static final class Views extends RESTCompatibilityKitViewCatalogTests {}
}

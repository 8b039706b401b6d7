//! Views: always this cluster's own. A name that a source's topic has or may get is refused for a new one, as for a
//! new table.

use tidewater_iceberg::catalog::{
    CatalogError, LoadedView, NamespaceIdent, NewView, TableIdent, ViewRequirement, ViewUpdate,
};

use super::ServedCatalog;
use crate::catalog_http::answer::Answer;

impl ServedCatalog {
    pub(in crate::catalog_http) async fn list_views(&self, namespace: &NamespaceIdent) -> Answer<Vec<TableIdent>> {
        self.or_empty(namespace, self.own.list_views(namespace).await)
    }

    pub(in crate::catalog_http) async fn load_view(&self, view: &TableIdent) -> Result<LoadedView, CatalogError> {
        self.own.load_view(view).await
    }

    pub(in crate::catalog_http) async fn view_exists(&self, view: &TableIdent) -> Result<bool, CatalogError> {
        self.own.view_exists(view).await
    }

    pub(in crate::catalog_http) async fn create_view(&self, view: &TableIdent, new: NewView) -> Answer<LoadedView> {
        self.check_new(view).await?;
        Ok(self.own.create_view(view, new).await?)
    }

    pub(in crate::catalog_http) async fn register_view(&self, view: &TableIdent, location: &str) -> Answer<LoadedView> {
        self.check_new(view).await?;
        Ok(self.own.register_view(view, location).await?)
    }

    pub(in crate::catalog_http) async fn replace_view(
        &self,
        view: &TableIdent,
        requirements: &[ViewRequirement],
        updates: &[ViewUpdate],
    ) -> Result<LoadedView, CatalogError> {
        self.own.replace_view(view, requirements, updates).await
    }

    pub(in crate::catalog_http) async fn drop_view(&self, view: &TableIdent) -> Result<(), CatalogError> {
        self.own.drop_view(view).await
    }

    pub(in crate::catalog_http) async fn rename_view(&self, from: &TableIdent, to: &TableIdent) -> Answer<()> {
        // A name of a source's is refused only for what exists to be renamed.
        if self.own.view_exists(from).await? {
            self.check_new(to).await?;
        }
        Ok(self.own.rename_view(from, to).await?)
    }
}

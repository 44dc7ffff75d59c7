// The wrapping keys, one for each day: destroying a day's key makes every copy of that day's data unreadable.
param name string
param location string
param tags object
param principalId string
param workspaceId string

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 7
    // Purge protection is off by leaving it out (Azure refuses an explicit false): with it on, a destroyed key
    // could be recovered for another seven days, and so could the data.
  }
}

// Not Key Vault Crypto Officer: a key that the app could back up or import would survive its destruction.
resource useDayKeys 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {
  name: guid(vault.id, 'day-keys')
  properties: {
    roleName: 'Sluicegate day keys (${name})'
    description: 'Create, use and destroy wrapping keys, sign the audit log; never back up, import, restore, recover or release them.'
    type: 'CustomRole'
    assignableScopes: [
      resourceGroup().id
    ]
    permissions: [
      {
        actions: []
        notActions: []
        dataActions: [
          'Microsoft.KeyVault/vaults/keys/read'
          'Microsoft.KeyVault/vaults/keys/create/action'
          'Microsoft.KeyVault/vaults/keys/wrap/action'
          'Microsoft.KeyVault/vaults/keys/unwrap/action'
          'Microsoft.KeyVault/vaults/keys/sign/action'
          'Microsoft.KeyVault/vaults/keys/delete'
          'Microsoft.KeyVault/vaults/keys/purge/action'
        ]
        notDataActions: []
      }
    ]
  }
}

resource assignDayKeys 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, principalId, 'day-keys')
  scope: vault
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', useDayKeys.name)
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}

// Azure's own record of each key's destruction, next to the app's receipts.
resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'audit'
  scope: vault
  properties: {
    workspaceId: workspaceId
    logs: [
      {
        category: 'AuditEvent'
        enabled: true
      }
    ]
  }
}

output uri string = vault.properties.vaultUri
